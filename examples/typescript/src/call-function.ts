// A function by its name, with the official npm client: typed arguments, no endpoint needed.

import { FunctionTimeoutError, ModalClient, NotFoundError, RemoteError } from "modal";
import { toAnalysis } from "./analysis.ts";
import { required } from "./environment.ts";

const APP = "typescript-example";

required("MODAL_SERVER_URL", "the address of your platform's API, which `pilotlight env` prints with the credentials");
const client = new ModalClient(); // credentials: MODAL_TOKEN_ID and MODAL_TOKEN_SECRET, or a profile in ~/.modal.toml

try {
  const analyze = await client.functions.fromName(APP, "analyze");
  const analysis = toAnalysis(await analyze.remote([process.argv[2] ?? "a few remarkable words"]));
  console.log(`${analysis.words} words, the longest is ${analysis.longest}`);
} catch (error) {
  if (error instanceof NotFoundError) {
    console.error(`${error.message}. Deploy it: modal deploy app.py`);
  } else if (error instanceof FunctionTimeoutError) {
    console.error("the function took longer than it may");
  } else if (error instanceof RemoteError) {
    console.error(`the function raised: ${error.message}`);
  } else {
    throw error;
  }
  process.exitCode = 1;
}
client.close();
process.exit(); // an open connection would keep the process alive
