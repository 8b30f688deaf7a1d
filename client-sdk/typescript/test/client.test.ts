/**
 * The whole way of a backup, against a running service.
 *
 * Set in the environment: NORA_BACKUP_SERVER, NORA_BACKUP_CONTROL_TOKEN (role
 * service), NORA_BACKUP_TOKEN and NORA_BACKUP_OWNER (a user), NORA_BACKUP_POOL,
 * and NORA_BACKUP_AGENT_DIR, an empty folder that the service's workers may read.
 */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { randomBytes, randomUUID } from "node:crypto";
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { type TestContext, test } from "node:test";
import { zstdDecompressSync } from "node:zlib";

import { type Backup, Backup_State } from "../src/gen/nora/backup/v1/backup_pb.js";
import { BackupClient, reason, wrongFields } from "../src/index.js";

const SERVER = env("NORA_BACKUP_SERVER");
const TOKEN = env("NORA_BACKUP_TOKEN");
// For a job to end, on a busy machine.
const JOB_MS_MAX = 100_000;

test("a backup is made, watched, listed and downloaded", async (t) => {
  const source = env("NORA_BACKUP_AGENT_DIR");
  const sizeBytes = fill(source);
  const agent = {
    agentId: `typescript-${randomUUID().slice(0, 8)}`,
    ownerId: env("NORA_BACKUP_OWNER"),
    pool: env("NORA_BACKUP_POOL"),
    source: { kind: { case: "directory" as const, value: { path: source } } },
  };
  // The token may also be a function.
  const control = new BackupClient(SERVER, async () => env("NORA_BACKUP_CONTROL_TOKEN"));
  t.after(() => control.close());
  assert.ok((await control.agents.registerAgent({ agent })).created);

  const user = connect(t, TOKEN);
  const created = (await user.backups.createBackup({ agentId: agent.agentId })).backup;
  assert.ok(created);
  const seen: Backup[] = [];
  const ended = await user.watchBackup(created.backupId, {
    onChange: (backup) => seen.push(backup),
    signal: AbortSignal.timeout(JOB_MS_MAX),
  });
  assert.equal(ended.state, Backup_State.COMPLETED, JSON.stringify(ended.failure));
  assert.equal(ended, seen.at(-1));
  assert.equal(Number(ended.sizeBytes), sizeBytes);

  const { backups } = await user.backups.listBackups({ agentId: agent.agentId });
  assert.deepEqual(
    backups.map((backup) => backup.backupId),
    [ended.backupId],
  );
  const { entries } = await user.backups.listBackupEntries({
    backupId: ended.backupId,
    recursive: true,
  });
  assert.ok(entries.some((entry) => entry.pathText === "notes/data.bin"));

  const folder = mkdtempSync(join(tmpdir(), "nora-backup-"));
  t.after(() => rmSync(folder, { recursive: true }));
  await downloads(user, ended.backupId, folder, source);
});

async function downloads(
  user: BackupClient,
  backupId: string,
  folder: string,
  source: string,
): Promise<void> {
  const path = join(folder, "backup.tar.zst");
  let etag = "";
  await user.downloadBackup(backupId, path, {
    onBytes: () => {
      etag = readFileSync(`${path}.part.etag`, "utf8");
    },
  });
  const archive = readFileSync(path);
  const target = join(folder, "unpacked");
  mkdirSync(target);
  execFileSync("tar", ["-x", "-C", target], { input: zstdDecompressSync(archive) });
  assert.deepEqual(contents(target), contents(source));

  // What an interrupted download left behind is not fetched again.
  const half = Math.floor(archive.length / 2);
  writeFileSync(`${path}.part`, archive.subarray(0, half));
  writeFileSync(`${path}.part.etag`, etag);
  const lengths: number[] = [];
  await user.downloadBackup(backupId, path, { onBytes: (length) => lengths.push(length) });
  assert.ok(lengths[0] !== undefined && lengths[0] > half);
  assert.ok(readFileSync(path).equals(archive));

  // What belongs to another backup is not gone on with.
  writeFileSync(`${path}.part`, "other bytes");
  writeFileSync(`${path}.part.etag`, "another");
  await user.downloadBackup(backupId, path);
  assert.ok(readFileSync(path).equals(archive));
  assert.deepEqual(
    readdirSync(folder).filter((name) => name.startsWith("backup")),
    ["backup.tar.zst"],
  );
}

test("errors have reasons", async (t) => {
  const user = connect(t, TOKEN);
  await assert.rejects(
    user.backups.getBackup({ backupId: randomUUID() }),
    (error) => reason(error) === "BACKUP_NOT_FOUND",
  );
  await assert.rejects(
    user.agents.registerAgent({ agent: { agentId: "an-agent" } }),
    (error) => reason(error) === "ROLE_NOT_ALLOWED",
  );
  await assert.rejects(user.backups.listBackups({ pageSize: -1 }), (error) => {
    assert.deepEqual(Object.keys(wrongFields(error)), ["page_size"]);
    return reason(error) === "INVALID_FIELD";
  });
  await assert.rejects(
    connect(t, "not-a-token").backups.getBackup({ backupId: randomUUID() }),
    (error) => reason(error) === "TOKEN_INVALID",
  );
});

function connect(t: TestContext, token: string): BackupClient {
  const client = new BackupClient(SERVER, token);
  t.after(() => client.close());
  return client;
}

/** Makes an agent's files; returns their bytes. */
function fill(folder: string): number {
  const files: Record<string, Buffer> = {
    "notes/data.bin": randomBytes(3 << 20),
    "notes/empty": Buffer.alloc(0),
    "Grüße/memory.json": Buffer.from('{"known": true}\n'.repeat(10_000)),
  };
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(dirname(join(folder, name)), { recursive: true });
    writeFileSync(join(folder, name), content);
  }
  symlinkSync("../notes/data.bin", join(folder, "notes", "run"));
  return Object.values(files).reduce((sum, content) => sum + content.length, 0);
}

/** What lies where: contents of files, targets of links. */
function contents(folder: string): Map<string, string> {
  const found = new Map<string, string>();
  for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name);
    const content = entry.isSymbolicLink()
      ? readlinkSync(path)
      : entry.isDirectory()
        ? "a folder"
        : readFileSync(path, "base64");
    found.set(path.slice(folder.length), content);
  }
  return found;
}

function env(name: string): string {
  const value = process.env[name];
  assert.ok(value, `${name} is not set`);
  return value;
}
