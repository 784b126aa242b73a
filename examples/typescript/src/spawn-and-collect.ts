// A function that takes its time: start it, remember its id, and collect the result later, even from another process.
//
//   node src/spawn-and-collect.ts            prints the id of a new call
//   node src/spawn-and-collect.ts fc-…       prints its result, or that it is not there yet

import { ModalClient, TimeoutError } from "modal";
import { required } from "./environment.ts";

const APP = "typescript-example";
const PAGES = 10;
const PATIENCE_MS = 5_000;

required("MODAL_SERVER_URL", "the address of your platform's API, which `pilotlight env` prints with the credentials");
const client = new ModalClient();

const [callId] = process.argv.slice(2);
if (callId === undefined) {
  const render = await client.functions.fromName(APP, "render");
  const call = await render.spawn([PAGES]);
  console.log(call.functionCallId);
} else {
  const call = await client.functionCalls.fromId(callId);
  try {
    console.log("result:", await call.get({ timeoutMs: PATIENCE_MS }));
  } catch (error) {
    if (!(error instanceof TimeoutError)) throw error;
    console.error(`${callId} is not done yet: ask again later, or cancel it with \`call.cancel()\``);
    process.exitCode = 2;
  }
  for await (const entry of call.logs.tail({ entries: 2 })) process.stdout.write(`its log: ${entry.message}`);
}
client.close();
process.exit();
