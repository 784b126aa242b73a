// What functions print, read by the npm client: of a function and of one call; by time, the last lines, and as they come.

import assert from "node:assert/strict";
import { ModalClient } from "modal";
import type { LogEntry } from "modal";

const client = new ModalClient();
const speak = await client.functions.fromName("typescript-tests", "speak");

async function collected(entries: AsyncIterable<LogEntry>): Promise<LogEntry[]> {
  const all: LogEntry[] = [];
  for await (const entry of entries) all.push(entry);
  return all;
}

const messages = (entries: LogEntry[]) => entries.map((entry) => entry.message).join("");
const expected = (lines: number, word: string) => Array.from({ length: lines }, (_, number) => `${word} ${number}\n`).join("");

export async function checkLogsOfACall(): Promise<void> {
  const [one, other] = [await speak.spawn([3, "one"]), await speak.spawn([3, "other"])];
  await Promise.all([one.get(), other.get()]);
  const found = await collected(one.logs.fetch({ source: "stdout" }));
  assert.equal(messages(found), expected(3, "one"));
  assert(found.every((entry) => entry.source === "stdout" && entry.objectId === one.functionCallId));
  const [context] = found.map((entry) => entry.contextIds);
  assert.match(context?.join(" ") ?? "", /^in-\S+ ta-\S+$/);
  assert.equal(messages(await collected(one.logs.fetch({ source: "stderr" }))), "one to stderr\n");
  assert.equal(messages(await collected(other.logs.fetch({ searchText: "to stderr" }))), "other to stderr\n");
  assert.equal(messages(await collected(other.logs.tail({ source: "stdout" }))), expected(3, "other"));
}

export async function checkLogsOfACallAsTheyCome(): Promise<void> {
  const call = await speak.spawn([5, "streamed"]);
  const entries = await collected(call.logs.stream({ timeoutMs: 100_000 }));
  assert.equal(messages(entries.filter((entry) => entry.source === "stdout")), expected(5, "streamed"));
}

export async function checkLogsOfAClass(): Promise<void> {
  const shelf = await client.cls.fromName("typescript-tests", "Shelf");
  const since = new Date();
  for (const label of ["first", "second"]) {
    const describe = (await shelf.instance({ label })).method("describe");
    await describe.remote();
    assert.equal(messages(await collected(describe.logs.fetch({ since, source: "stdout" }))), `this is ${label}\n`);
  }
}

export async function checkLogsOfAFunction(): Promise<void> {
  const since = new Date();
  const call = await speak.spawn([4, "all"]);
  await call.get();
  const found = await collected(speak.logs.fetch({ since, source: "stdout" }));
  assert(messages(found).includes(expected(4, "all")));
  assert(found.some((entry) => entry.contextIds.includes(call.functionCallId)));
  const last = await collected(speak.logs.tail({ entries: 2 }));
  assert.equal(last.length, 2);
  const seen: string[] = [];
  for await (const entry of speak.logs.stream({ timeoutMs: 60_000 })) {
    seen.push(entry.message);
    if (seen.join("").includes(expected(4, "all"))) break;
  }
  assert(seen.length > 0);
}
