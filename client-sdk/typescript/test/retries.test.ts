/** What is tried again, and how: against a service that breaks on purpose. */

import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type ServerHttp2Session } from "node:http2";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";

import { Code, ConnectError, type ServiceImpl } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";

import { ErrorInfoSchema, RetryInfoSchema } from "../src/gen/google/rpc/error_details_pb.js";
import { type Backup, Backup_State } from "../src/gen/nora/backup/v1/backup_pb.js";
import {
  BackupService,
  type CreateBackupRequest,
  type DownloadBackupRequest,
} from "../src/gen/nora/backup/v1/backup_service_pb.js";
import { BackupClient, type ClientOptions, reason, retryDelayMs, StreamError } from "../src/index.js";

const ARCHIVE = Buffer.alloc(10_240, "an archive ");
const CHUNK_BYTES = 1_000;

/** Ends as many calls as told before they, or their streams, are through. */
class Breaking {
  breaks = 0;
  delayMs = 20;
  creates: CreateBackupRequest[] = [];
  downloads: DownloadBackupRequest[] = [];
  cancels = 0;

  breakOff(): void {
    if (this.breaks === 0) {
      return;
    }
    this.breaks -= 1;
    throw new ConnectError("stops", Code.Unavailable, undefined, [
      { desc: ErrorInfoSchema, value: { reason: "SHUTTING_DOWN", domain: "nora.backup" } },
      {
        desc: RetryInfoSchema,
        value: {
          retryDelay: {
            seconds: BigInt(Math.floor(this.delayMs / 1_000)),
            nanos: (this.delayMs % 1_000) * 1_000_000,
          },
        },
      },
    ]);
  }

  readonly service: Partial<ServiceImpl<typeof BackupService>> = {
    createBackup: (request) => {
      this.creates.push(request);
      this.breakOff();
      return { backup: { backupId: "b" } };
    },
    cancelBackup: () => {
      this.cancels += 1;
      this.breakOff();
      return {};
    },
    watchBackup: async function* (this: Breaking) {
      yield { backup: { state: Backup_State.RUNNING } };
      this.breakOff();
      yield { backup: { state: Backup_State.COMPLETED } };
    }.bind(this),
    downloadBackup: async function* (this: Breaking, request: DownloadBackupRequest) {
      const begin = Number(request.offset);
      for (let offset = begin; offset < ARCHIVE.length; offset += CHUNK_BYTES) {
        const data = ARCHIVE.subarray(offset, offset + CHUNK_BYTES);
        const last = offset + data.length === ARCHIVE.length;
        yield { offset: BigInt(offset), data, etag: offset === begin ? "e" : "", last };
        if (offset === begin) {
          this.downloads.push(request);
          this.breakOff();
        }
      }
    }.bind(this),
  };
}

async function serve(t: TestContext): Promise<[Breaking, (options?: ClientOptions) => BackupClient]> {
  const breaking = new Breaking();
  const routes = connectNodeAdapter({
    routes: (router) => void router.service(BackupService, breaking.service),
  });
  const server = createServer(routes).listen(0, "127.0.0.1");
  const sessions = new Set<ServerHttp2Session>();
  server.on("session", (session) => sessions.add(session));
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  t.after(() => {
    sessions.forEach((session) => session.destroy());
    server.close();
  });
  const connect = (options?: ClientOptions): BackupClient => {
    const client = new BackupClient(`http://127.0.0.1:${port}`, "token", options);
    t.after(() => client.close());
    return client;
  };
  return [breaking, connect];
}

function folderOf(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), "nora-backup-"));
  t.after(() => rmSync(folder, { recursive: true }));
  return folder;
}

test("a create is repeated under one request id", async (t) => {
  const [breaking, connect] = await serve(t);
  const client = connect();
  breaking.breaks = 2;
  await client.backups.createBackup({ agentId: "an-agent" });
  const first = breaking.creates[0]?.requestId;
  assert.deepEqual(
    breaking.creates.map((request) => [request.requestId, request.agentId]),
    Array(3).fill([first, "an-agent"]),
  );
  // Another call is another backup; an id that the caller chose is kept.
  await client.backups.createBackup({ agentId: "an-agent" });
  await client.backups.createBackup({ requestId: "chosen" });
  assert.ok(breaking.creates[3]?.requestId);
  assert.notEqual(breaking.creates[3]?.requestId, first);
  assert.equal(breaking.creates[4]?.requestId, "chosen");
});

test("what is not safe to repeat is not repeated", async (t) => {
  const [breaking, connect] = await serve(t);
  breaking.breaks = 1;
  await assert.rejects(connect().backups.cancelBackup({ backupId: "b" }), (error) => {
    assert.equal(reason(error), "SHUTTING_DOWN");
    return retryDelayMs(error) === breaking.delayMs;
  });
  assert.equal(breaking.cancels, 1);
});

test("nothing is repeated longer than wished", async (t) => {
  const [breaking, connect] = await serve(t);
  breaking.breaks = 10;
  breaking.delayMs = 3_600_000;
  await assert.rejects(connect().backups.createBackup({}));
  breaking.delayMs = 0;
  await assert.rejects(connect({ retryMs: 0 }).backups.createBackup({}));
  assert.equal(breaking.creates.length, 2);
  // A call's own limit counts for all of its attempts, and the pauses between.
  breaking.delayMs = 20_000;
  const called = performance.now();
  await assert.rejects(
    connect().backups.createBackup({}, { timeoutMs: 100 }),
    (error) => ConnectError.from(error).code === Code.DeadlineExceeded,
  );
  assert.ok(performance.now() - called < 10_000);
});

test("a watch goes on after a break", async (t) => {
  const [breaking, connect] = await serve(t);
  breaking.breaks = 2;
  const seen: Backup[] = [];
  const ended = await connect().watchBackup("b", { onChange: (backup) => seen.push(backup) });
  assert.equal(ended.state, Backup_State.COMPLETED);
  assert.deepEqual(
    seen.map((backup) => backup.state),
    [2, 2, 2, 3],
  );
});

test("a download goes on where it broke", async (t) => {
  const [breaking, connect] = await serve(t);
  breaking.breaks = 2;
  const folder = folderOf(t);
  await connect().downloadBackup("b", join(folder, "backup.tar.zst"));
  assert.ok(readFileSync(join(folder, "backup.tar.zst")).equals(ARCHIVE));
  assert.deepEqual(readdirSync(folder), ["backup.tar.zst"]);
  assert.deepEqual(
    breaking.downloads.map(({ offset, etag }) => [Number(offset), etag]),
    [
      [0, ""],
      [CHUNK_BYTES, "e"],
      [2 * CHUNK_BYTES, "e"],
    ],
  );
});

test("what a broken download had stays", async (t) => {
  const [breaking, connect] = await serve(t);
  breaking.breaks = 1;
  const path = join(folderOf(t), "backup.tar.zst");
  await assert.rejects(connect({ retryMs: 0 }).downloadBackup("b", path));
  assert.equal(readFileSync(`${path}.part`).length, CHUNK_BYTES);
  // Another archive than the one that the .part belongs to.
  writeFileSync(`${path}.part.etag`, "another");
  await assert.rejects(connect().downloadBackup("b", path), StreamError);
  writeFileSync(`${path}.part.etag`, "e");
  await connect().downloadBackup("b", path);
  assert.ok(readFileSync(path).equals(ARCHIVE));
});

test("an address is checked at once", () => {
  for (const url of ["", "localhost:50051", "ftp://localhost", "http://"]) {
    assert.throws(() => new BackupClient(url, "token"), TypeError);
  }
  assert.throws(() => new BackupClient("http://localhost", "token", { tls: {} }), TypeError);
});
