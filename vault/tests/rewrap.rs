//! Rotation: whatever fails when, and whoever else rewraps, every data key stays what it
//! was, and opens at any moment with a key that opened it before.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, KeyType, Salt},
};
use tokio_util::sync::CancellationToken;
use vault::{
    KeyEncryptionKey, Keyring, RewrapPolicy, RewrapReport, Store, Vault, VaultError, VaultSettings,
    erase,
    format::KeyObject,
    rewrap,
    store::testing::{Call, Calls, Fault, FaultPlan, Gate, MemoryStore, Rule, When},
    survey,
};

const AGENT: &str = "agent";

fn kek(byte: u8) -> KeyEncryptionKey {
    KeyEncryptionKey::new([byte; 32])
}

fn keyring(writing: u8, previous: &[u8]) -> Keyring {
    Keyring::new(
        kek(writing),
        previous.iter().map(|byte| kek(*byte)).collect(),
    )
}

async fn vault(store: &Arc<MemoryStore>, keyring: &Keyring) -> Result<Vault, VaultError> {
    Vault::open(store.clone(), AGENT, keyring, VaultSettings::default()).await
}

/// A vault with a key under key 1.
async fn made() -> (Arc<MemoryStore>, String, Vec<u8>) {
    let store = MemoryStore::new();
    let settings = VaultSettings::default();
    Vault::open_or_create(store.clone(), AGENT, &keyring(1, &[]), settings)
        .await
        .expect("make a vault");
    let name = key_name(&store);
    let secret = version_1(&store.object(&name).expect("key"), 1).expect("opens");
    (store, name, secret)
}

fn key_name(store: &MemoryStore) -> String {
    let names = store.names();
    assert_eq!(names.len(), 1, "{names:?}");
    names.into_iter().next().expect("one")
}

async fn run(
    store: &MemoryStore,
    keyring: &Keyring,
    policy: RewrapPolicy,
) -> Result<RewrapReport, VaultError> {
    rewrap(store, AGENT, keyring, policy, &CancellationToken::new()).await
}

fn derive(secret: &[u8], info: &[u8]) -> Vec<u8> {
    struct Length;
    impl KeyType for Length {
        fn len(&self) -> usize {
            32
        }
    }
    let mut out = vec![0; 32];
    let info = [info];
    let okm = Salt::new(HKDF_SHA256, &[]).extract(secret);
    let okm = okm.expand(&info, Length).expect("short");
    okm.fill(&mut out).expect("32 bytes");
    out
}

/// The data key, as docs/format.md tells a reader of version 1 to open it: nothing here
/// is the program's own code, and nothing here may change.
fn version_1(bytes: &[u8], kek: u8) -> Option<Vec<u8>> {
    let object = KeyObject::decode(bytes).expect("a key object");
    assert_eq!(object.format_version, 1);
    let secret = [kek; 32];
    let id = derive(&secret, b"nora-backup key id");
    let wrapped = object
        .wrapped_keys
        .iter()
        .find(|wrapped| wrapped.key_encryption_key_id == id[..8])?;
    let mut aad = b"nora-vault v1 wrap".to_vec();
    aad.extend_from_slice(&object.vault_id);
    aad.extend_from_slice(&object.key_id);
    aad.extend_from_slice(&object.commitment);
    aad.extend_from_slice(&object.create_time_ms.to_be_bytes());
    aad.extend_from_slice(object.agent_id.as_bytes());
    let cipher = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &secret).expect("32 bytes"));
    let nonce = Nonce::try_assume_unique_for_key(&wrapped.nonce).expect("12 bytes");
    let mut text = wrapped.ciphertext.clone();
    let plain = cipher
        .open_in_place(nonce, Aad::from(aad), &mut text)
        .ok()?;
    assert_eq!(
        derive(plain, b"nora-vault v1 commitment"),
        object.commitment
    );
    Some(plain.to_vec())
}

#[tokio::test]
async fn a_rotation_adds_then_retires_and_the_data_key_stays() {
    let (store, name, secret) = made().await;
    let opens = |kek| version_1(&store.object(&name).expect("key"), kek);
    let report = run(&store, &keyring(2, &[1]), RewrapPolicy::Add)
        .await
        .expect("add");
    assert_eq!(report.rewritten(), 1);
    assert!(report.is_under(&kek(2).id()) && report.is_under(&kek(1).id()));
    assert_eq!(
        (opens(1), opens(2)),
        (Some(secret.clone()), Some(secret.clone()))
    );
    for other in [keyring(1, &[]), keyring(2, &[])] {
        vault(&store, &other).await.expect("opens with either");
    }
    // Again, nothing is written.
    let written = store.object(&name);
    let report = run(&store, &keyring(2, &[1]), RewrapPolicy::Add)
        .await
        .expect("again");
    assert_eq!((report.rewritten(), store.object(&name)), (0, written));

    let report = run(&store, &keyring(2, &[1]), RewrapPolicy::Retire)
        .await
        .expect("retire");
    assert_eq!(report.wrapped_under(), [kek(2).id()]);
    assert_eq!((opens(1), opens(2)), (None, Some(secret.clone())));
    let error = vault(&store, &keyring(1, &[])).await.expect_err("retired");
    assert_eq!(error.reason(), "KEY_NOT_CONFIGURED");
    assert!(error.to_string().contains(&kek(2).id()), "{error}");
    // And twice in a row: to a third key at once.
    run(&store, &keyring(3, &[2]), RewrapPolicy::Retire)
        .await
        .expect("third");
    assert_eq!((opens(2), opens(3)), (None, Some(secret)));
}

#[tokio::test]
async fn a_key_that_nobody_here_knows_is_kept_and_named() {
    let (store, name, secret) = made().await;
    let before = store.object(&name);
    for policy in [RewrapPolicy::Add, RewrapPolicy::Retire] {
        let error = run(&store, &keyring(5, &[6]), policy)
            .await
            .expect_err("not here");
        assert_eq!(error.reason(), "KEY_NOT_CONFIGURED");
        assert!(error.to_string().contains(&kek(1).id()), "{error}");
    }
    assert_eq!(store.object(&name), before);
    let seen = survey(&*store, AGENT, &keyring(5, &[]))
        .await
        .expect("survey");
    assert_eq!(
        (seen.wrapped_under(), seen.keys[0].opens),
        (vec![kek(1).id()], false)
    );
    // Adding never takes a wrap away that this replica does not know.
    run(&store, &keyring(2, &[1]), RewrapPolicy::Add)
        .await
        .expect("add");
    run(&store, &keyring(3, &[2]), RewrapPolicy::Add)
        .await
        .expect("add");
    for known in [1, 2, 3] {
        assert_eq!(
            version_1(&store.object(&name).expect("key"), known),
            Some(secret.clone())
        );
    }
}

#[tokio::test]
async fn a_damaged_wrap_is_mended_from_another() {
    let (store, name, secret) = made().await;
    run(&store, &keyring(2, &[1]), RewrapPolicy::Add)
        .await
        .expect("add");
    let mut object = KeyObject::decode(store.object(&name).expect("key")).expect("decode");
    object.wrapped_keys[1].ciphertext[0] ^= 1;
    store.set_object(&name, Some(Bytes::from(object.encode_to_vec())));
    vault(&store, &keyring(2, &[1]))
        .await
        .expect("the other wrap opens");
    let error = vault(&store, &keyring(2, &[])).await.expect_err("damaged");
    assert_eq!(error.reason(), "OBJECT_CORRUPT");
    let report = run(&store, &keyring(2, &[1]), RewrapPolicy::Add)
        .await
        .expect("mend");
    assert_eq!(report.rewritten(), 1);
    assert_eq!(
        version_1(&store.object(&name).expect("key"), 2),
        Some(secret)
    );
}

/// Each call of a rotation fails once, in each way a call can.
#[tokio::test]
async fn every_call_may_fail_once() {
    let faults = [
        Fault::Error,
        Fault::ErrorButDone,
        Fault::Timeout,
        Fault::TimeoutButDone,
        Fault::Late(1),
        Fault::Late(3),
        Fault::Torn,
        Fault::Lost,
        Fault::Stale,
        Fault::Corrupt,
        Fault::Full,
    ];
    for policy in [RewrapPolicy::Add, RewrapPolicy::Retire] {
        for fault in &faults {
            for call in 0..8 {
                let (store, name, secret) = made().await;
                let rule = Rule::new(Calls::Any, When::Nth(call), fault.clone());
                let plan = FaultPlan {
                    seed: call,
                    ..FaultPlan::once(rule)
                };
                let faulty = store.client(plan);
                let first = run(&faulty, &keyring(2, &[1]), policy).await;
                let what = format!("{policy:?} {fault:?} at call {call}: {first:?}");
                let stored = store.object(&name).expect("there");
                let opened = [1, 2].map(|kek| version_1(&stored, kek));
                assert!(opened.contains(&Some(secret.clone())), "{what}");
                if first.is_ok() {
                    assert_eq!(opened[1], Some(secret.clone()), "{what}");
                }
                // What is late arrives, then it is done again; the call that fails may
                // be one of these.
                let mut again = run(&faulty, &keyring(2, &[1]), policy).await;
                if again.is_err() {
                    again = run(&faulty, &keyring(2, &[1]), policy).await;
                }
                again.unwrap_or_else(|error| panic!("{what}: {error}"));
                let stored = store.object(&name).expect("there");
                assert_eq!(version_1(&stored, 2), Some(secret.clone()), "{what}");
                if policy == RewrapPolicy::Retire {
                    assert_eq!(version_1(&stored, 1), None, "{what}");
                }
            }
        }
    }
}

/// Killed before each call, for good; another process goes on.
#[tokio::test]
async fn a_rotation_killed_at_any_call_goes_on() {
    for policy in [RewrapPolicy::Add, RewrapPolicy::Retire] {
        for call in 0..8 {
            let (store, name, secret) = made().await;
            let killed = store.client(FaultPlan::crash_at(call));
            let _ = run(&killed, &keyring(2, &[1]), policy).await;
            vault(&store, &keyring(2, &[1]))
                .await
                .expect("readers go on");
            run(&store, &keyring(2, &[1]), policy).await.expect("go on");
            let stored = store.object(&name).expect("there");
            assert_eq!(version_1(&stored, 2), Some(secret), "call {call}");
        }
    }
}

/// One rotation stands before its write while another one runs from end to end.
#[tokio::test]
async fn two_rotations_at_once_leave_a_vault_that_both_can_open() {
    for (first, second) in [
        (RewrapPolicy::Add, RewrapPolicy::Add),
        (RewrapPolicy::Add, RewrapPolicy::Retire),
        (RewrapPolicy::Retire, RewrapPolicy::Add),
        (RewrapPolicy::Retire, RewrapPolicy::Retire),
    ] {
        let (store, name, secret) = made().await;
        let gate = Gate::default();
        let fault = Fault::Pause(gate.clone());
        let rule = Rule::new(Calls::Only(Call::Put), When::Nth(0), fault);
        let slow = store.client(FaultPlan::once(rule));
        let late = tokio::spawn(async move { run(&slow, &keyring(2, &[1]), first).await });
        gate.reached().await;
        run(&store, &keyring(2, &[1]), second)
            .await
            .expect("second");
        gate.open();
        late.await.expect("no panic").expect("first");
        let stored = store.object(&name).expect("there");
        assert_eq!(version_1(&stored, 2), Some(secret), "{first:?} {second:?}");
        vault(&store, &keyring(2, &[])).await.expect("opens");
    }
}

#[tokio::test]
async fn a_canceled_rotation_writes_nothing() {
    let (store, name, _) = made().await;
    let before = store.object(&name);
    let cancel = CancellationToken::new();
    cancel.cancel();
    let ended = rewrap(
        &*store,
        AGENT,
        &keyring(2, &[1]),
        RewrapPolicy::Add,
        &cancel,
    )
    .await;
    assert!(matches!(ended, Err(VaultError::Canceled)));
    assert_eq!(store.object(&name), before);
}

#[tokio::test]
async fn keys_that_are_destroyed_leave_a_vault_that_says_so() {
    let (store, name, _) = made().await;
    store
        .put("vaults/agent/packs/x", Bytes::from_static(b"pack"))
        .await
        .expect("put");
    assert_eq!(
        erase::data_key_ids(&*store, AGENT).await.expect("ids"),
        [name.rsplit('/').next().expect("id")]
    );
    // Needs no key.
    assert_eq!(
        erase::destroy_keys(&*store, AGENT).await.expect("destroy"),
        1
    );
    let error = vault(&store, &keyring(1, &[])).await.expect_err("gone");
    assert_eq!(error.reason(), "KEYS_GONE");
    let error = run(&store, &keyring(2, &[1]), RewrapPolicy::Add)
        .await
        .expect_err("gone");
    assert_eq!(error.reason(), "KEYS_GONE");
    erase::erase(&*store, AGENT).await.expect("erase");
    assert!(store.names().is_empty());
}
