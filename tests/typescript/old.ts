// What client 1.1 of Python has deployed can't be called from here, and the client says why.

import assert from "node:assert/strict";
import { InvalidError, ModalClient } from "modal";

export async function checkAnOldDeploymentIsRefused(): Promise<void> {
  const old = await new ModalClient().functions.fromName("old-app", "f");
  await assert.rejects(old.remote(), (error: unknown) => {
    assert(error instanceof InvalidError);
    assert.match(error.message, /incompatible Python SDK version/);
    return true;
  });
}
