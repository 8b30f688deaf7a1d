/** The connection, and what takes more than one call. */

import type { SecureClientSessionOptions } from "node:http2";

import { type Client, createClient } from "@connectrpc/connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";

import { bearer, Patience, repeated, type Token } from "./calls.js";
import { AgentService } from "./gen/nora/backup/v1/agent_service_pb.js";
import type { Backup } from "./gen/nora/backup/v1/backup_pb.js";
import {
  BackupService,
  type WatchVerificationResponse,
} from "./gen/nora/backup/v1/backup_service_pb.js";
import type { Restore } from "./gen/nora/backup/v1/restore_pb.js";
import { RestoreService } from "./gen/nora/backup/v1/restore_service_pb.js";
import { ScheduleService } from "./gen/nora/backup/v1/schedule_service_pb.js";
import { download, watch } from "./streams.js";

// After so long without a sign the connection is asked whether it still is one.
const PING_MS = 60_000;

/** How a client connects. */
export interface ClientOptions {
  /**
   * For TLS with another authority than those that Node.js knows (`ca`), or with
   * a certificate of the client (`cert`, `key`).
   */
  tls?: Pick<SecureClientSessionOptions, "ca" | "cert" | "key" | "servername">;
  /**
   * For how long a call that the service could not answer (UNAVAILABLE, or
   * overloaded) is repeated, where that is safe. Default: 30,000; 0: never.
   */
  retryMs?: number;
}

/** How something is watched. */
export interface WatchOptions<T> {
  /** Gets every change. */
  onChange?: (state: T) => void;
  /** Ends the watch; what is watched goes on. */
  signal?: AbortSignal;
}

/** How something is downloaded. */
export interface DownloadOptions {
  /** Gets the length so far. */
  onBytes?: (length: number) => void;
  /** Ends the download; a later one goes on with what it brought. */
  signal?: AbortSignal;
}

/** The service, as one caller sees it. */
export class BackupClient {
  /** Agents. */
  readonly agents: Client<typeof AgentService>;
  /** Backups. */
  readonly backups: Client<typeof BackupService>;
  /** Restores. */
  readonly restores: Client<typeof RestoreService>;
  /** Schedules and retention. */
  readonly schedules: Client<typeof ScheduleService>;
  readonly #sessions: Http2SessionManager;
  readonly #retryMs: number;

  /** `url` is `http://HOST:PORT`, or `https://HOST:PORT` for TLS. */
  constructor(url: string, token: Token, { tls, retryMs = 30_000 }: ClientOptions = {}) {
    const protocol = URL.canParse(url) ? new URL(url).protocol : "";
    if (protocol !== "http:" && protocol !== "https:") {
      throw new TypeError(`"${url}" is not http://HOST:PORT or https://HOST:PORT`);
    }
    if (tls && protocol !== "https:") {
      throw new TypeError(`the option tls is for https, not for "${url}"`);
    }
    this.#retryMs = retryMs;
    this.#sessions = new Http2SessionManager(url, { pingIntervalMs: PING_MS }, tls);
    const transport = createGrpcTransport({
      baseUrl: url,
      sessionManager: this.#sessions,
      interceptors: [repeated(retryMs), bearer(token)],
    });
    this.agents = createClient(AgentService, transport);
    this.backups = createClient(BackupService, transport);
    this.restores = createClient(RestoreService, transport);
    this.schedules = createClient(ScheduleService, transport);
  }

  /**
   * Waits until a backup has ended, and returns it: COMPLETED, FAILED (see
   * `failure`) or CANCELED.
   */
  watchBackup(backupId: string, options: WatchOptions<Backup> = {}): Promise<Backup> {
    return this.#watch(
      () => this.backups.watchBackup({ backupId }, call(options)),
      (event) => event.backup,
      options,
    );
  }

  /** The same for a restore. */
  watchRestore(restoreId: string, options: WatchOptions<Restore> = {}): Promise<Restore> {
    return this.#watch(
      () => this.restores.watchRestore({ restoreId }, call(options)),
      (event) => event.restore,
      options,
    );
  }

  /** The same for a verification; the last event is returned. */
  watchVerification(
    backupId: string,
    verificationId: string,
    options: WatchOptions<WatchVerificationResponse> = {},
  ): Promise<WatchVerificationResponse> {
    return this.#watch(
      () => this.backups.watchVerification({ backupId, verificationId }, call(options)),
      (event) => event,
      options,
    );
  }

  /**
   * Brings a COMPLETED backup to a file, as .tar.zst; a file that is there is
   * replaced.
   *
   * The bytes go to `<path>.part`, which gets its name once it is complete and on
   * the disk. A broken stream goes on where it stopped, and so does a later call
   * with the same path: `<path>.part.etag` tells whether what is there belongs to
   * it.
   */
  downloadBackup(backupId: string, path: string, options: DownloadOptions = {}): Promise<void> {
    return download(
      (offset, etag) =>
        this.backups.downloadBackup({ backupId, offset: BigInt(offset), etag }, call(options)),
      path,
      options.onBytes,
      new Patience(this.#retryMs),
      options.signal,
    );
  }

  /** Ends the connection, and the streams on it. */
  close(): void {
    this.#sessions.abort();
  }

  #watch<E, T>(
    events: () => AsyncIterable<E>,
    stateOf: (event: E) => T | undefined,
    { onChange, signal }: WatchOptions<T>,
  ): Promise<T> {
    async function* states(): AsyncIterable<T> {
      for await (const event of events()) {
        const state = stateOf(event);
        if (state !== undefined) {
          yield state;
        }
      }
    }
    return watch(states, onChange, new Patience(this.#retryMs), signal);
  }
}

function call({ signal }: { signal?: AbortSignal }): { signal?: AbortSignal } {
  return signal ? { signal } : {};
}
