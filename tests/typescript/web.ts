// A web function, as the npm client sees it: it has an address, and is called by that alone.

import assert from "node:assert/strict";
import { InvalidError, ModalClient } from "modal";

const client = new ModalClient();

export async function checkTheAddressOfAWebFunction(): Promise<void> {
  const analysis = await client.functions.fromName("typescript-example", "analysis");
  const url = await analysis.getWebUrl();
  assert.equal(url, process.env["ANALYSIS_URL"]);
  const init = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ text: "one three" }) };
  const response = await fetch(String(url), init);
  assert.deepEqual(await response.json(), { words: 2, longest: "three" });
  for (const call of [analysis.remote(), analysis.spawn()]) {
    await assert.rejects(call, (error: unknown) => {
      assert(error instanceof InvalidError);
      assert.match(error.message, /web url/);
      return true;
    });
  }
}
