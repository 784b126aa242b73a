// Arguments and results that are too large for a message: they travel by HTTP.

import assert from "node:assert/strict";
import { ModalClient } from "modal";

const client = new ModalClient();
const named = (name: string) => client.functions.fromName("typescript-tests", name);

export async function checkLargeArgumentsAndResults(): Promise<void> {
  const sizeOf = await named("size_of");
  for (const size of [9 << 10, 3 << 20, 10 << 20]) {
    assert.equal(await sizeOf.remote([new Uint8Array(size)]), size);
    assert.equal(await (await sizeOf.spawn([new Uint8Array(size)])).get(), size);
  }
  for (const size of [3 << 20, 40 << 20]) {
    const got = (await (await named("zeros")).remote([size])) as Uint8Array;
    assert.equal(got.length, size);
  }
}
