// Queues, secrets, apps, environments and images.

import assert from "node:assert/strict";
import { AlreadyExistsError, InvalidError, ModalClient, NotFoundError, QueueEmptyError, QueueFullError } from "modal";

const client = new ModalClient();
const unique = (name: string) => `${name}-${process.pid}`;

async function collected<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const item of items) all.push(item);
  return all;
}

export async function checkQueues(): Promise<void> {
  const queue = await client.queues.ephemeral();
  await queue.put(1);
  await queue.putMany(["two", { three: [3, null, true, 3.5] }, new Uint8Array([4])]);
  assert.equal(await queue.len(), 4);
  assert.equal(await queue.get(), 1);
  const rest = await queue.getMany(10);
  assert.equal(rest.length, 3);
  assert.equal(rest[0], "two");
  assert.deepEqual(rest[2], Buffer.from([4]));
  await assert.rejects(queue.put(1n), /does not support.*bigint/); // items are pickled, and this client's pickles know less than CBOR
  assert.deepEqual((rest[1] as { three: unknown[] }).three, [3, null, true, 3.5]);
  await assert.rejects(queue.get({ timeoutMs: 0 }), QueueEmptyError);
  await assert.rejects(queue.getMany(2, { timeoutMs: 100 }), QueueEmptyError);
  queue.closeEphemeral();
}

export async function checkPartitionsOfQueues(): Promise<void> {
  const queue = await client.queues.ephemeral();
  await queue.putMany([1, 2], { partition: "left", partitionTtlMs: 60_000 });
  await queue.put(3, { partition: "right" });
  assert.equal(await queue.len({ partition: "left" }), 2);
  assert.equal(await queue.len(), 0);
  assert.equal(await queue.len({ total: true }), 3);
  assert.deepEqual(await collected(queue.iterate({ partition: "left" })), [1, 2]);
  assert.equal(await queue.get({ partition: "right" }), 3);
  await queue.clear({ partition: "left" });
  assert.equal(await queue.len({ total: true }), 0);
  await queue.put(4);
  await queue.clear({ all: true });
  assert.equal(await queue.len({ total: true }), 0);
  await assert.rejects(queue.put(5, { partition: "x".repeat(65) }), InvalidError);
  queue.closeEphemeral();
}

export async function checkAGetWaitsForAPut(): Promise<void> {
  const queue = await client.queues.ephemeral();
  const got = queue.get({ timeoutMs: 60_000 });
  const iterated = collected(queue.iterate({ partition: "other", itemPollTimeoutMs: 3_000 }));
  await queue.put("at last");
  await queue.put("seen", { partition: "other" });
  assert.equal(await got, "at last");
  assert.deepEqual(await iterated, ["seen"]);
  queue.closeEphemeral();
}

export async function checkAFullQueue(): Promise<void> {
  const queue = await client.queues.ephemeral();
  await queue.putMany(Array.from({ length: 5_000 }, (_, number) => number));
  await assert.rejects(queue.put("one too many", { timeoutMs: 50 }), QueueFullError);
  queue.closeEphemeral();
}

export async function checkNamedQueues(): Promise<void> {
  const name = unique("queue");
  await assert.rejects(client.queues.fromName(name), NotFoundError);
  const made = await client.queues.fromName(name, { createIfMissing: true });
  await made.put("kept");
  assert.equal(await (await client.queues.fromName(name)).get(), "kept");
  await client.queues.delete(name);
  await assert.rejects(client.queues.delete(name), NotFoundError);
  await client.queues.delete(name, { allowMissing: true });
}

export async function checkVolumes(): Promise<void> {
  const name = unique("volume");
  await assert.rejects(client.volumes.fromName(name), NotFoundError);
  const made = await client.volumes.fromName(name, { createIfMissing: true, version: 2 });
  assert.match(made.volumeId, /^vo-/);
  assert.equal((await client.volumes.fromName(name)).volumeId, made.volumeId);
  assert.equal((await client.volumes.fromName(name, { version: 2 })).volumeId, made.volumeId);
  await assert.rejects(client.volumes.fromName(name, { version: 1 }));
  await client.volumes.delete(name);
  await assert.rejects(client.volumes.fromName(name), NotFoundError);
  await assert.rejects(client.volumes.delete(name), NotFoundError);
  await client.volumes.delete(name, { allowMissing: true });
  const passing = await client.volumes.ephemeral();
  assert.match(passing.volumeId, /^vo-/);
  passing.closeEphemeral();
}

export async function checkSecrets(): Promise<void> {
  await assert.rejects(client.secrets.fromName(unique("no-secret")), NotFoundError);
  await assert.rejects(client.secrets.delete(unique("no-secret")), NotFoundError);
  await client.secrets.delete(unique("no-secret"), { allowMissing: true });
  await assert.rejects(client.secrets.fromObject({ "not a name": "x" }), InvalidError);
}

export async function checkNamedSecretsAndTheirKeys(): Promise<void> {
  // Made by the command line before this program began: the npm client can't make named ones.
  const secret = await client.secrets.fromName("typescript-secret", { requiredKeys: ["COLOUR"] });
  assert.match(secret.secretId, /^st-/);
  await assert.rejects(client.secrets.fromName("typescript-secret", { requiredKeys: ["COLOUR", "SIZE"] }), (error: unknown) => {
    assert(error instanceof NotFoundError);
    assert.match(error.message, /Secret is missing key\(s\).*SIZE/);
    return true;
  });
  const variable = await client.functions.fromName("typescript-tests", "variable");
  const dressed = await variable.withOptions({ secrets: [secret] }).instance();
  assert.equal(await dressed.remote(["COLOUR"]), "red");
}

export async function checkApps(): Promise<void> {
  const name = unique("app");
  await assert.rejects(client.apps.fromName(name), NotFoundError);
  const app = await client.apps.fromName(name, { createIfMissing: true });
  assert.match(app.appId, /^ap-/);
  assert.equal((await client.apps.fromName(name)).appId, app.appId);
  const deployed = await client.apps.fromName("typescript-tests");
  const info = await deployed.info();
  assert.equal(info.lifecycle.state, "deployed");
  assert.match(String(info.functions["add"]), /^fu-/);
}

export async function checkEnvironments(): Promise<void> {
  const name = unique("environment");
  await assert.rejects(client.environments.fromName(name), NotFoundError);
  await client.environments.objects.create(name);
  await assert.rejects(client.environments.objects.create(name), AlreadyExistsError);
  const environment = await client.environments.fromName(name);
  assert.equal(environment.name, name);
  const there = new ModalClient({ environment: name });
  await there.apps.fromName("inside", { createIfMissing: true });
  assert.deepEqual((await collected(environment.apps.list())).map((app) => app.name), ["inside"]);
  await assert.rejects(client.apps.fromName("inside"), NotFoundError);
  assert((await collected(client.environments.objects.list())).some((item) => item.name === name));
  await client.environments.objects.delete(name);
  await assert.rejects(client.environments.fromName(name), NotFoundError);
  await assert.rejects(client.environments.objects.delete(name), NotFoundError);
}

export async function checkImages(): Promise<void> {
  const app = await client.apps.fromName(unique("images"), { createIfMissing: true });
  const secret = await client.secrets.fromObject({ AT_BUILD: "1" });
  const image = client.images
    .fromRegistry("python:3.11-slim-bookworm")
    .dockerfileCommands(["RUN echo one > /one"])
    .dockerfileCommands(["RUN echo $AT_BUILD > /two"], { secrets: [secret], env: { MORE: "2" } });
  const built = await image.build(app);
  assert.match(built.imageId, /^im-/);
  const found = await client.images.fromId(built.imageId);
  assert.equal(found.imageId, built.imageId);
  const more = await found.dockerfileCommands(["ENV MORE=1"]).build(app);
  assert.notEqual(more.imageId, built.imageId);
  await assert.rejects(client.images.fromId("im-nothing"), NotFoundError);
}

export async function checkNamesOfImages(): Promise<void> {
  const app = await client.apps.fromName(unique("named-images"), { createIfMissing: true });
  const name = unique("image");
  const base = client.images.fromRegistry("python:3.11-slim-bookworm");
  await assert.rejects(client.images.fromName(name), NotFoundError);
  await assert.rejects(base.publish(name), InvalidError);
  const [one, two] = [await base.build(app), await base.dockerfileCommands(["ENV TWO=2"]).build(app)];
  await one.publish(`${name}:v1`);
  await one.publish(name);
  await two.publish(name);
  assert.equal((await client.images.fromName(`${name}:v1`)).imageId, one.imageId);
  assert.equal((await client.images.fromName(name)).imageId, two.imageId);
  assert.equal((await client.images.fromName(`main/${name}:latest`)).imageId, two.imageId);
  await assert.rejects(client.images.fromName(name, { environment: "nowhere" }), NotFoundError);
  await client.images.delete(two.imageId);
  assert.equal((await client.images.fromName(name)).imageId, one.imageId); // what the name meant before
  await assert.rejects(client.images.fromId(two.imageId), NotFoundError);
  await assert.rejects(client.images.delete(two.imageId), NotFoundError);
}
