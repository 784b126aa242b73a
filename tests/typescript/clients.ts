// Clients: from the environment and from parameters, with good and with bad credentials.

import assert from "node:assert/strict";
import { ModalClient } from "modal";

const tokenId = process.env["MODAL_TOKEN_ID"] ?? "";
const tokenSecret = process.env["MODAL_TOKEN_SECRET"] ?? "";

export async function checkCredentialsFromParameters(): Promise<void> {
  delete process.env["MODAL_TOKEN_ID"];
  delete process.env["MODAL_TOKEN_SECRET"];
  try {
    const client = new ModalClient({ tokenId, tokenSecret });
    const add = await client.functions.fromName("typescript-tests", "add");
    assert.equal(await add.remote([1, 2]), 3);
    assert.equal(client.version(), "0.11.1");
    await assert.rejects(new ModalClient().functions.fromName("typescript-tests", "add"), /missing credentials/);
  } finally {
    process.env["MODAL_TOKEN_ID"] = tokenId;
    process.env["MODAL_TOKEN_SECRET"] = tokenSecret;
  }
}

export async function checkBadCredentials(): Promise<void> {
  for (const [id, secret] of [
    [tokenId, "as-wrong"],
    ["ak-nobody", tokenSecret],
  ] as const) {
    const client = new ModalClient({ tokenId: id, tokenSecret: secret });
    await assert.rejects(client.functions.fromName("typescript-tests", "add"), (error: unknown) => {
      assert(error instanceof Error);
      assert.match(error.message, /UNAUTHENTICATED: .*token/i);
      return true;
    });
  }
}

export async function checkACallThatIsHeldLong(): Promise<void> {
  const client = new ModalClient();
  const pause = await client.functions.fromName("typescript-tests", "pause");
  assert.equal(await pause.remote([4.5]), 4.5);
}

export async function checkAnEnvironmentThatIsNotThere(): Promise<void> {
  const client = new ModalClient({ environment: "nowhere" });
  await assert.rejects(client.functions.fromName("typescript-tests", "add"), /not found/);
}
