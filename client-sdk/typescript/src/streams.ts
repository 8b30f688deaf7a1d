/** Streams that are read to their end, however often they break. */

import { type FileHandle, open, readFile, rename, rm, writeFile } from "node:fs/promises";

import type { Patience } from "./calls.js";
import { reason } from "./errors.js";
import type { DownloadBackupResponse } from "./gen/nora/backup/v1/backup_service_pb.js";

// What the service answers when what lies in a .part is no beginning of what it
// would send.
const OTHER_BYTES = ["DOWNLOAD_CHANGED", "OFFSET_OUT_OF_RANGE"];

/** The service sent something else than it promises. */
export class StreamError extends Error {
  override name = "StreamError";
}

/** Reads the states of something until there are no more; returns the last. */
export async function watch<T>(
  states: () => AsyncIterable<T>,
  onChange: ((state: T) => void) | undefined,
  patience: Patience,
  signal: AbortSignal | undefined,
): Promise<T> {
  for (;;) {
    let seen: T | undefined;
    try {
      for await (const state of states()) {
        patience.renew();
        seen = state;
        onChange?.(state);
      }
    } catch (error) {
      // A stream begins with the present state: nothing is missed.
      await patience.wait(error, signal);
      continue;
    }
    if (seen === undefined) {
      throw new StreamError("the service closed a stream in which it had told nothing");
    }
    return seen;
  }
}

/** Brings a stream of bytes to a file. */
export async function download(
  openAt: (offset: number, etag: string) => AsyncIterable<DownloadBackupResponse>,
  path: string,
  onBytes: ((length: number) => void) | undefined,
  patience: Patience,
  signal: AbortSignal | undefined,
): Promise<void> {
  const part = `${path}.part`;
  const etagPath = `${part}.etag`;
  const file = await open(part, "a");
  try {
    const received = await Download.of(file, etagPath);
    for (let beganAgain = false; !received.complete; ) {
      try {
        for await (const chunk of openAt(received.position, received.etag)) {
          await received.take(chunk);
          patience.renew();
          onBytes?.(received.position);
        }
        if (!received.complete) {
          throw new StreamError("the service closed a download before its end");
        }
      } catch (error) {
        if (OTHER_BYTES.includes(reason(error)) && !beganAgain) {
          beganAgain = true;
          await received.beginAgain();
        } else {
          await patience.wait(error, signal);
        }
      }
    }
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(part, path);
  await rm(etagPath, { force: true });
}

/** What of a download has come. */
class Download {
  position = 0;
  etag = "";
  complete = false;

  private constructor(
    private readonly file: FileHandle,
    private readonly etagPath: string,
  ) {}

  /** What an earlier one left behind, when it is known what it is of. */
  static async of(file: FileHandle, etagPath: string): Promise<Download> {
    const download = new Download(file, etagPath);
    download.position = (await file.stat()).size;
    if (download.position > 0) {
      download.etag = (await readFile(etagPath, "utf8").catch(() => "")).trim();
    }
    if (download.etag === "") {
      await download.beginAgain();
    }
    return download;
  }

  /** Whatever lies there belongs to something else. */
  async beginAgain(): Promise<void> {
    await this.file.truncate(0);
    this.position = 0;
    this.etag = "";
  }

  /** Appends what follows on what is there. */
  async take(chunk: DownloadBackupResponse): Promise<void> {
    if (this.complete) {
      throw new StreamError("the service sent more after the end of a download");
    }
    if (chunk.etag !== "" && this.etag === "") {
      this.etag = chunk.etag;
      await writeFile(this.etagPath, chunk.etag);
    }
    if (chunk.etag !== "" && chunk.etag !== this.etag) {
      throw new StreamError(`the service sent "${chunk.etag}" instead of "${this.etag}"`);
    }
    if (Number(chunk.offset) !== this.position && chunk.data.length > 0) {
      throw new StreamError(
        `the service sent bytes for offset ${chunk.offset}, where ${this.position} was due`,
      );
    }
    await this.file.appendFile(chunk.data);
    this.position += chunk.data.length;
    this.complete = chunk.last;
  }
}
