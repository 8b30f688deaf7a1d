/**
 * Client of the Nora backup service.
 *
 * `BackupClient` connects, with a token. It has one generated client a service,
 * whose calls it repeats where that is safe, and methods for what takes more than
 * one call. `reason`, `wrongFields` and `retryDelayMs` read what an error carries.
 * Messages and enums are in `@nora/backup-client/v1/*`.
 */

export type { Token } from "./calls.js";
export {
  BackupClient,
  type ClientOptions,
  type DownloadOptions,
  type WatchOptions,
} from "./client.js";
export { DOMAIN, reason, retryDelayMs, wrongFields } from "./errors.js";
export { StreamError } from "./streams.js";
