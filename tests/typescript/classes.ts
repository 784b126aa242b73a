// Classes: with and without parameters, with options, concurrency and batching.

import assert from "node:assert/strict";
import { InvalidError, ModalClient, NotFoundError } from "modal";

const APP = "typescript-tests";
const client = new ModalClient();

export async function checkAClassWithoutParameters(): Promise<void> {
  const plain = await (await client.cls.fromName(APP, "Plain")).instance();
  assert.equal(await plain.method("hello").remote(["you"]), "hello you");
  assert.equal(await (await plain.method("hello").spawn([], { name: "me" })).get(), "hello me");
  assert.throws(() => plain.method("nothing"), NotFoundError);
}

export async function checkParametersOfEveryKind(): Promise<void> {
  const shelf = await client.cls.fromName(APP, "Shelf");
  const defaults = await shelf.instance({ label: "a" });
  assert.deepEqual(await defaults.method("describe").remote(), ["a", 3, true, Buffer.from("none")]);
  const all = await shelf.instance({ label: "b", size: 7, is_open: false, stamp: new Uint8Array([1]) });
  assert.deepEqual(await all.method("describe").remote(), ["b", 7, false, Buffer.from([1])]);
  await assert.rejects(shelf.instance(), /label.*string/);
}

export async function checkInstancesKeepTheirState(): Promise<void> {
  const shelf = await client.cls.fromName(APP, "Shelf");
  const one = await shelf.instance({ label: `one ${process.pid}` });
  const other = await shelf.instance({ label: `other ${process.pid}` });
  assert.equal(await one.method("put").remote([2]), 2);
  assert.equal(await one.method("put").remote([3]), 5);
  assert.equal(await other.method("put").remote([1]), 1);
}

export async function checkOptions(): Promise<void> {
  const shelf = await client.cls.fromName(APP, "Shelf");
  const secret = await client.secrets.fromObject({ COLOUR: "blue" });
  const dressed = shelf.withOptions({ secrets: [secret], env: { SHAPE: "square" }, maxContainers: 1, cpu: 0.5, memoryMiB: 256 });
  const instance = await dressed.instance({ label: "dressed" });
  assert.equal(await instance.method("variable").remote(["COLOUR"]), "blue");
  assert.equal(await instance.method("variable").remote(["SHAPE"]), "square");
}

export async function checkConcurrency(): Promise<void> {
  const name = `meeting-${process.pid}`;
  await client.queues.fromName(name, { createIfMissing: true });
  try {
    const meeting = await client.cls.fromName(APP, "Meeting");
    const together = await meeting.withConcurrency({ maxInputs: 3 }).withOptions({ maxContainers: 1 }).instance();
    const guests = Array.from({ length: 3 }, () => together.method("meet").remote([name, 3]));
    assert.deepEqual(await Promise.all(guests), [3, 3, 3]);
  } finally {
    await client.queues.delete(name);
  }
}

export async function checkAClassIsNoFunction(): Promise<void> {
  const { functions } = await (await client.apps.fromName(APP)).info();
  await assert.rejects(client.functions.fromId(String(functions["Shelf.*"])), (error: unknown) => {
    assert(error instanceof InvalidError);
    assert.match(error.message, /is a Cls/);
    return true;
  });
}

export async function checkWhatIsNotThere(): Promise<void> {
  await assert.rejects(client.cls.fromName(APP, "Nothing"), (error: unknown) => {
    assert(error instanceof NotFoundError);
    assert.equal(error.message, `Class '${APP}/Nothing' not found`);
    return true;
  });
}
