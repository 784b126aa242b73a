// A call that is under way while the platform's server is killed and started again: nothing of it is seen here.
//
// Says "running" when its container works, and at the end what the call returned; the server is killed between the two.

import assert from "node:assert/strict";
import { ModalClient } from "modal";

const client = new ModalClient();
const pause = await client.functions.fromName("typescript-tests", "pause");
await pause.remote([0]);
const pending = pause.remote([6]);
const call = await pause.spawn([6]);
console.log("running");
assert.equal(await pending, 6);
assert.equal(await call.get(), 6);
const add = await client.functions.fromName("typescript-tests", "add");
console.log(`returned ${String(await add.remote([6, 7]))}`);
process.exit(0);
