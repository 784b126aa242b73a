// A platform that speaks TLS, with a certificate of an authority of one's own: the API, and the place of large bodies.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { ModalClient } from "modal";

const client = new ModalClient();

export async function checkTheApi(): Promise<void> {
  assert.equal(new URL(String(process.env["MODAL_SERVER_URL"])).protocol, "https:");
  const queue = await client.queues.ephemeral();
  await queue.put("secret");
  assert.equal(await queue.get(), "secret");
  queue.closeEphemeral();
}

export async function checkLargeBodies(): Promise<void> {
  const data = Buffer.alloc(3 << 20, "x");
  const contentMd5 = createHash("md5").update(data).digest("base64");
  const { uploadUrl, blobId } = await client.cpClient.blobCreate({ contentMd5, contentLength: data.length });
  assert.equal(new URL(String(uploadUrl)).protocol, "https:");
  const headers = { "Content-Type": "application/octet-stream", "Content-MD5": contentMd5 };
  assert.equal((await fetch(String(uploadUrl), { method: "PUT", headers, body: data })).status, 200);
  const { downloadUrl } = await client.cpClient.blobGet({ blobId });
  assert.deepEqual(Buffer.from(await (await fetch(downloadUrl)).arrayBuffer()), data);
}
