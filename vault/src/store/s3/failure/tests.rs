use http::HeaderValue;

use super::*;

const SECRET: &str = "the-secret-of-the-key";
const KEY: &str = "AKIDEXAMPLE";

fn site(kind: &'static str) -> Site {
    Site {
        kind,
        bucket: "nora".into(),
        prefix: "prod/a".into(),
        region: "us-east-1".into(),
        endpoint: "https://s3.example.net:9000/sub".into(),
        names: FieldNames::of(&proto::backup::v1::Destination::default()),
        hidden: Hidden(vec![SECRET.to_owned().into(), KEY.to_owned().into()]),
    }
}

fn asked(method: &str, query: &str) -> Asked {
    let uri = format!("https://s3.example.net/nora/prod/a/x{query}");
    Asked::of(
        &Request::builder()
            .method(method)
            .uri(uri)
            .body(())
            .expect("a request"),
    )
}

fn document(code: &str, rest: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code>{rest}\
         <AWSAccessKeyId>{KEY}</AWSAccessKeyId><StringToSign>{SECRET}</StringToSign>\
         <RequestId>1</RequestId></Error>"
    )
}

fn failure_of(site: &Site, asked: Asked, status: u16, document: &str) -> Option<Failure> {
    let mut headers = HeaderMap::new();
    headers.insert(
        DATE,
        HeaderValue::from_static("Wed, 25 Nov 2026 02:00:00 GMT"),
    );
    let answer = Answer {
        status: StatusCode::from_u16(status).expect("a status"),
        headers: &headers,
        document,
    };
    let failure = site.failure(&asked, &answer);
    if let Some(failure) = &failure {
        let shown = format!("{failure} {failure:?}");
        assert!(!shown.contains(SECRET) && !shown.contains(KEY), "{shown}");
        assert!(!failure.detail.contains('\n'), "{shown}");
    }
    failure
}

#[test]
fn each_code_of_a_service_becomes_a_cause_and_a_remedy() {
    use StoreErrorKind::{Corrupt, Denied, Full, Misconfigured, Refused, Unavailable};
    let put = asked("PUT", "");
    for (status, code, rest, kind, passing, holds) in [
        (
            404,
            "NoSuchBucket",
            "",
            Misconfigured,
            false,
            "there is no bucket \"nora\" at s3.example.net:9000: create it, or set NORA_BACKUP_S3_BUCKET",
        ),
        (
            403,
            "AccessDenied",
            "",
            Denied,
            false,
            "may not do s3:PutObject on nora/prod/a/*",
        ),
        (
            403,
            "AccessDenied",
            "<Message>User: arn:aws:iam::1:user/x is not authorized to perform: kms:GenerateDataKey on resource</Message>",
            Denied,
            false,
            "may not do kms:GenerateDataKey on",
        ),
        (
            403,
            "InvalidAccessKeyId",
            "",
            Refused,
            false,
            "NORA_BACKUP_S3_ACCESS_KEY_ID",
        ),
        (
            403,
            "SignatureDoesNotMatch",
            "",
            Refused,
            false,
            "NORA_BACKUP_S3_SECRET_ACCESS_KEY is not",
        ),
        (
            400,
            "ExpiredToken",
            "",
            Refused,
            false,
            "NORA_BACKUP_S3_SESSION_TOKEN",
        ),
        (
            401,
            "Unauthorized",
            "",
            Refused,
            false,
            "does not accept the access key",
        ),
        (
            301,
            "PermanentRedirect",
            "<Endpoint>nora.s3-eu-west-1.amazonaws.com</Endpoint>",
            Misconfigured,
            false,
            "addressed as nora.s3-eu-west-1.amazonaws.com",
        ),
        (
            400,
            "AuthorizationHeaderMalformed",
            "<Region>eu-west-1</Region>",
            Misconfigured,
            false,
            "set NORA_BACKUP_S3_REGION to eu-west-1",
        ),
        (
            400,
            "AuthorizationHeaderMalformed",
            "<Message>The region 'us-east-1' is wrong; expecting 'eu-central-1'</Message>",
            Misconfigured,
            false,
            "is in region eu-central-1, not in us-east-1",
        ),
        (
            403,
            "RequestTimeTooSkewed",
            "<ServerTime>2026-11-25T02:00:00Z</ServerTime>",
            Refused,
            false,
            "it is 2026-11-25T02:00:00Z: set the clock",
        ),
        (
            403,
            "RequestTimeTooSkewed",
            "",
            Refused,
            false,
            "it is Wed, 25 Nov 2026 02:00:00 GMT",
        ),
        (403, "QuotaExceeded", "", Full, false, "bucket \"nora\""),
        (
            507,
            "XMinioStorageFull",
            "",
            Full,
            false,
            "XMinioStorageFull",
        ),
        (
            500,
            "InternalError",
            "<Message>write: no space left on device</Message>",
            Full,
            false,
            "nora",
        ),
        (503, "SlowDown", "", Unavailable, true, "fewer requests"),
        (
            500,
            "InternalError",
            "",
            Unavailable,
            true,
            "HTTP status 500 (InternalError)",
        ),
        (
            400,
            "BadDigest",
            "",
            Corrupt,
            true,
            "other bytes than were sent",
        ),
        (
            400,
            "InvalidStorageClass",
            "",
            Misconfigured,
            false,
            "NORA_BACKUP_S3_STORAGE_CLASS",
        ),
        (
            400,
            "KMS.NotFoundException",
            "",
            Misconfigured,
            false,
            "NORA_BACKUP_S3_KMS_KEY_ID",
        ),
        (
            400,
            "InvalidArgument",
            &format!("<Message>bad {KEY}\n of {SECRET}</Message>"),
            Misconfigured,
            false,
            "refuses s3:PutObject on nora/prod/a/* (InvalidArgument: bad ...  of ...)",
        ),
        (
            501,
            "NotImplemented",
            "",
            Misconfigured,
            false,
            "NotImplemented",
        ),
    ] {
        let document = document(code, rest);
        let failure = failure_of(&site("s3"), put, status, &document).expect("a failure");
        assert_eq!(failure.kind, kind, "{code}: {failure}");
        assert_eq!(failure.passing, passing, "{code}: {failure}");
        assert!(failure.detail.contains(holds), "{code}: {failure}");
    }
}

#[test]
fn the_permission_that_is_missing_is_that_of_the_call() {
    let denied = document("AccessDenied", "");
    for (method, query, holds) in [
        ("PUT", "", "s3:PutObject on nora/prod/a/*"),
        ("GET", "", "s3:GetObject on nora/prod/a/*"),
        ("DELETE", "", "s3:DeleteObject on nora/prod/a/*"),
        (
            "GET",
            "?list-type=2&prefix=x",
            "s3:ListBucket on bucket nora",
        ),
    ] {
        let failure = failure_of(&site("s3"), asked(method, query), 403, &denied).expect("one");
        assert!(failure.detail.contains(holds), "{failure}");
    }
    let head = failure_of(&site("s3"), asked("HEAD", ""), 403, "").expect("one");
    assert!(
        head.detail.contains("and s3:ListBucket on bucket nora"),
        "{head}"
    );
}

#[test]
fn what_belongs_to_normal_work_is_no_failure() {
    let none = |method, status, text: &str| {
        assert!(failure_of(&site("s3"), asked(method, ""), status, text).is_none());
    };
    none("GET", 404, &document("NoSuchKey", ""));
    none("HEAD", 404, "");
    none("GET", 416, &document("InvalidRange", ""));
}

#[test]
fn what_is_no_s3_service_is_told_from_one() {
    let html = "<html><body>Not Found</body></html>";
    let failure = failure_of(&site("r2"), asked("GET", ""), 404, html).expect("one");
    assert_eq!(failure.kind, StoreErrorKind::Misconfigured);
    assert!(
        failure.detail.contains("set NORA_BACKUP_R2_ENDPOINT"),
        "{failure}"
    );
    let gateway = failure_of(&site("s3"), asked("GET", ""), 502, html).expect("one");
    assert_eq!(gateway.kind, StoreErrorKind::Unavailable);
    assert!(gateway.passing);
}

#[test]
fn a_confirmation_is_the_md5_or_a_key_of_the_service() {
    let md5 = "5d41402abc4b2a76b9719d911017c592";
    assert_eq!(
        hex_of_base64("XUFAKrxLKna5cZ2REBfFkg==").as_deref(),
        Some(md5)
    );
    let headers = |etag: &str, kms: bool| {
        let mut headers = HeaderMap::new();
        headers.insert("etag", etag.parse().expect("a header"));
        if kms {
            let kind = HeaderValue::from_static("aws:kms");
            headers.insert("x-amz-server-side-encryption", kind);
        }
        headers
    };
    let site = site("s3");
    assert!(site.confirms(md5, &headers(&format!("\"{md5}\""), false)));
    assert!(!site.confirms(md5, &headers("\"00000000000000000000000000000000\"", false)));
    assert!(site.confirms(md5, &headers("\"00000000000000000000000000000000\"", true)));
    assert!(!site.confirms(md5, &HeaderMap::new()));
}
