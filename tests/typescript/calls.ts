// Functions in every way of calling them, and what can go wrong.

import assert from "node:assert/strict";
import { FunctionTimeoutError, ModalClient, NotFoundError, RemoteError, TimeoutError } from "modal";

const APP = "typescript-tests";
const client = new ModalClient();
const named = (name: string) => client.functions.fromName(APP, name);

export async function checkRemote(): Promise<void> {
  const add = await named("add");
  assert.equal(await add.remote([20, 22]), 42);
  assert.equal(await add.remote([20], { right: 3 }), 23);
  assert.equal(await add.remote([], { left: 1, right: 2 }), 3);
  assert.deepEqual(await (await named("echo")).remote(["a", 1], { b: [2] }), [["a", 1], { b: [2] }]);
  assert.equal(await add.getWebUrl(), undefined);
  const again = await client.functions.fromId(add.functionId);
  assert.equal(await again.remote([1]), 2);
}

export async function checkSpawnAndGetById(): Promise<void> {
  const call = await (await named("add")).spawn([1, 2]);
  assert.match(call.functionCallId, /^fc-/);
  assert.equal(await call.get(), 3);
  const elsewhere = await new ModalClient().functionCalls.fromId(call.functionCallId);
  assert.equal(await elsewhere.get({ timeoutMs: 60_000 }), 3);
  assert.equal(await elsewhere.get(), 3);
}

export async function checkTimeoutOfTheWaitAndCancel(): Promise<void> {
  const call = await (await named("wait_forever")).spawn();
  await assert.rejects(call.get({ timeoutMs: 50 }), (error: unknown) => {
    assert(error instanceof TimeoutError && !(error instanceof RemoteError));
    return true;
  });
  await assert.rejects(call.get({ timeoutMs: 0 }), TimeoutError);
  await call.cancel();
  await assert.rejects(call.get(), (error: unknown) => {
    assert(error instanceof RemoteError);
    assert.match(error.message, /cancel/i);
    return true;
  });
}

export async function checkCancelWithContainers(): Promise<void> {
  const call = await (await named("wait_forever")).spawn();
  await call.cancel({ terminateContainers: true });
  await assert.rejects(call.get(), RemoteError);
}

export async function checkErrorsOfTheProgram(): Promise<void> {
  const fail = await named("fail");
  await assert.rejects(fail.remote(["so it goes"]), (error: unknown) => {
    assert(error instanceof RemoteError);
    assert.match(error.message, /so it goes/);
    return true;
  });
  await assert.rejects((await fail.spawn(["later"])).get(), /later/);
  await assert.rejects((await named("add")).remote(["one", 2]), RemoteError);
}

export async function checkTimeoutOfTheFunction(): Promise<void> {
  await assert.rejects((await named("too_slow")).remote(), FunctionTimeoutError);
}

export async function checkRetriesOfTheFunction(): Promise<void> {
  const name = `attempts-${process.pid}`;
  await client.queues.fromName(name, { createIfMissing: true });
  try {
    // The npm client leaves the user's retry policy to the platform for what it spawns.
    assert.equal(await (await (await named("third_time")).spawn([name])).get(), 3);
  } finally {
    await client.queues.delete(name);
  }
}

export async function checkWhatIsNotThere(): Promise<void> {
  await assert.rejects(named("nothing"), (error: unknown) => {
    assert(error instanceof NotFoundError);
    assert.equal(error.message, `Function '${APP}/nothing' not found`);
    return true;
  });
  await assert.rejects(client.functions.fromName("no-app", "add"), NotFoundError);
  await assert.rejects(client.functions.fromName(APP, "add", { environment: "no-environment" }), NotFoundError);
  await assert.rejects(client.functions.fromId("fu-nothing"), NotFoundError);
  await assert.rejects(client.functionCalls.fromId("fc-nothing"), /NOT_FOUND.*fc-nothing/);
}

export async function checkRoutingRegion(): Promise<void> {
  assert.equal(await (await named("routed")).remote(), "routed");
}

export async function checkManyAtOnce(): Promise<void> {
  const double = await named("double");
  const results = await Promise.all(Array.from({ length: 150 }, (_, number) => double.remote([number])));
  assert.deepEqual(results, Array.from({ length: 150 }, (_, number) => 2 * number));
}

export async function checkStatistics(): Promise<void> {
  const add = await named("add");
  await add.remote([1]);
  const statistics = await add.getCurrentStats();
  assert.equal(statistics.backlog, 0);
  assert(statistics.numTotalRunners >= 1, JSON.stringify(statistics));
}

export async function checkAutoscaler(): Promise<void> {
  const add = await named("add");
  const before = await add.updateAutoscaler({});
  const after = await add.updateAutoscaler({ maxContainers: 3, scaledownWindowMs: 20_000 });
  assert.deepEqual(after, { ...before, maxContainers: 3, scaledownWindowMs: 20_000 });
  assert.deepEqual(await add.updateAutoscaler({ bufferContainers: 1 }), { ...after, bufferContainers: 1 });
  await assert.rejects(add.updateAutoscaler({ minContainers: 5 }), /INVALID_ARGUMENT.*min_containers=5.*max_containers=3/);
  await add.updateAutoscaler({ bufferContainers: 0 });
}

export async function checkOptionsOfAFunction(): Promise<void> {
  const variable = await named("variable");
  const secret = await client.secrets.fromObject({ COLOUR: "green" });
  const changed = await variable.withOptions({ secrets: [secret], env: { SHAPE: "round" }, timeoutMs: 30_000 }).instance();
  assert.equal(await changed.remote(["COLOUR"]), "green");
  assert.equal(await changed.remote(["SHAPE"]), "round");
  assert.equal(await variable.remote(["COLOUR"]), null);
  const batched = await (await named("in_batches")).withBatching({ maxBatchSize: 2, waitMs: 5_000 }).instance();
  assert.deepEqual(await Promise.all([batched.remote([1]), batched.remote([2])]), [2, 2]);
}

export async function checkAGeneratorSaysHowManyItYielded(): Promise<void> {
  const done = (await (await named("give_back_twice")).remote([7])) as { itemsTotal: number };
  assert.equal(done.itemsTotal, 2);
}
