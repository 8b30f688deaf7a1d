/**
 * What happens to every call: the token, and that it is tried again.
 *
 * A call that creates something gets a `requestId`, unless it has one, so that
 * the service makes it once however often the call arrives. That makes it safe to
 * repeat, like those that only read; the others (cancel, delete) are left to the
 * caller, for whom the answer to a second one may mean something else.
 */

import { randomUUID } from "node:crypto";
import { setTimeout } from "node:timers/promises";

import { clone, type DescMessage, isMessage, type Message } from "@bufbuild/protobuf";
import { ConnectError, type Interceptor } from "@connectrpc/connect";

import { isPassing, retryDelayMs } from "./errors.js";
import { RegisterAgentRequestSchema } from "./gen/nora/backup/v1/agent_service_pb.js";

/** A token, or what returns the present one: asked at each attempt of a call. */
export type Token = string | (() => string | Promise<string>);

// The pause before the first repetition when the service names none; doubled
// each time, up to the longest.
const PAUSE_MS = 200;
const PAUSE_MS_MAX = 5_000;
// Changes nothing when repeated, although it does not only read.
const REPEATABLE = ["StartRestore", "RegisterAgent"];

/** How long one call, or one stream since its last sign, is tried again. */
export class Patience {
  #end = 0;
  #pauseMs = 0;

  constructor(readonly ms: number) {
    this.renew();
  }

  /** It works again: from now on as at the beginning. */
  renew(): void {
    this.#end = performance.now() + this.ms;
    this.#pauseMs = PAUSE_MS;
  }

  /**
   * Waits until the next attempt. Throws the error, without waiting, when it will
   * not pass or the time is over.
   */
  async wait(error: unknown, signal?: AbortSignal): Promise<void> {
    // Those whom one stop sent away do not all come back at once.
    const pauseMs = (retryDelayMs(error) ?? this.#pauseMs) * (1 + Math.random() / 5);
    if (signal?.aborted || !isPassing(error) || performance.now() + pauseMs > this.#end) {
      throw error;
    }
    this.#pauseMs = Math.min(this.#pauseMs * 2, PAUSE_MS_MAX);
    try {
      await setTimeout(pauseMs, undefined, signal && { signal });
    } catch {
      throw ConnectError.from(signal?.reason);
    }
  }
}

/** Adds `authorization: Bearer <token>` to every call. */
export function bearer(token: Token): Interceptor {
  return (next) => async (request) => {
    const present = typeof token === "string" ? token : await token();
    request.header.set("authorization", `Bearer ${present}`);
    return next(request);
  };
}

/**
 * Repeats calls without a stream; streams are taken up again by what reads them.
 */
export function repeated(retryMs: number): Interceptor {
  return (next) => async (request) => {
    if (request.stream) {
      return next(request);
    }
    const message = withRequestId(request.message, request.method.input);
    if (!isRepeatable(request.method.name, message, request.method.input)) {
      return next(request);
    }
    const patience = new Patience(retryMs);
    for (;;) {
      try {
        return await next({ ...request, message });
      } catch (error) {
        await patience.wait(error, request.signal);
      }
    }
  };
}

function withRequestId(message: Message, schema: DescMessage): Message {
  // The caller's message stays as it is: sent again, it is another request.
  return hasRequestId(schema) && "requestId" in message && !message.requestId
    ? Object.assign(clone(schema, message), { requestId: randomUUID() })
    : message;
}

function isRepeatable(method: string, message: Message, schema: DescMessage): boolean {
  if (isMessage(message, RegisterAgentRequestSchema) && message.agent?.etag) {
    // The first one that arrives changes the etag.
    return false;
  }
  const reads = /^(Get|List)/.test(method);
  return reads || REPEATABLE.includes(method) || hasRequestId(schema);
}

function hasRequestId(schema: DescMessage): boolean {
  return schema.field["requestId"] !== undefined;
}
