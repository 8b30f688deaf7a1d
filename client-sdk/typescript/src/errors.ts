/** What an error of the service carries beside its code and message. */

import { Code, ConnectError } from "@connectrpc/connect";

import {
  BadRequestSchema,
  ErrorInfoSchema,
  RetryInfoSchema,
} from "./gen/google/rpc/error_details_pb.js";

/** The domain of the service's own reasons. */
export const DOMAIN = "nora.backup";

/**
 * The stable reason, for example "BACKUP_NOT_FOUND": a name of `ErrorReason`
 * without its prefix. Empty when the error is not the service's own, as when it
 * cannot be reached.
 */
export function reason(error: unknown): string {
  const infos = ConnectError.from(error).findDetails(ErrorInfoSchema);
  return infos.find((info) => info.domain === DOMAIN)?.reason ?? "";
}

/** What is wrong with which field of the request, when it is INVALID_FIELD. */
export function wrongFields(error: unknown): Record<string, string> {
  const requests = ConnectError.from(error).findDetails(BadRequestSchema);
  return Object.fromEntries(
    requests
      .flatMap((request) => request.fieldViolations)
      .map((violation) => [violation.field, violation.description]),
  );
}

/**
 * How long to wait before the same call may succeed, in milliseconds; undefined
 * when the service does not say that trying again helps.
 */
export function retryDelayMs(error: unknown): number | undefined {
  const [info] = ConnectError.from(error).findDetails(RetryInfoSchema);
  const delay = info?.retryDelay;
  return delay && Number(delay.seconds) * 1_000 + delay.nanos / 1_000_000;
}

// What Node.js calls a connection that broke, where connect-node does not call
// it UNAVAILABLE.
const BROKEN = new Set([
  "ECONNRESET",
  "EPIPE",
  "ERR_HTTP2_INVALID_STREAM",
  "ERR_HTTP2_STREAM_CANCEL",
  "ERR_STREAM_DESTROYED",
  "ERR_STREAM_PREMATURE_CLOSE",
]);

/**
 * Whether the same call may succeed later: the service cannot be reached, stops,
 * or is overloaded.
 */
export function isPassing(error: unknown): boolean {
  const { code } = ConnectError.from(error);
  if (code === Code.ResourceExhausted) {
    return retryDelayMs(error) !== undefined;
  }
  return code === Code.Unavailable || isBroken(error);
}

function isBroken(error: unknown): boolean {
  if (!(error instanceof Error)) {
    return false;
  }
  const code = "code" in error ? error.code : undefined;
  return (typeof code === "string" && BROKEN.has(code)) || isBroken(error.cause);
}
