// Receives the word that a call has ended (`pilotlight webhook add`), and believes none that is not signed.

import { createServer } from "node:http";
import type { IncomingMessage } from "node:http";
import type { AddressInfo } from "node:net";
import { Webhook, WebhookVerificationError } from "standardwebhooks";
import { required } from "./environment.ts";

const MAX_BODY_BYTES = 1 << 20;
const SEEN_LIMIT = 10_000;

/** What a delivery tells; `data` has more than is named here. */
interface CallEvent {
  type: "function_call.completed" | "function_call.failed" | "function_call.timed_out" | "function_call.cancelled";
  timestamp: string;
  data: { function_call_id: string; app: string; function: string; status: string; result?: unknown };
}

const webhook = new Webhook(required("WEBHOOK_SECRET", "the `whsec_…` secret that `pilotlight webhook add` printed"));
const seen = new Set<string>(); // ids of deliveries: the same one may come again

async function bodyOf(request: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > MAX_BODY_BYTES) throw new RangeError("the body is too large");
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

/** Acts on a delivery, once. Work that takes longer than a few seconds belongs into a queue of your own. */
function receive(id: string, event: CallEvent): void {
  if (seen.has(id)) return;
  if (seen.size >= SEEN_LIMIT) seen.clear();
  seen.add(id);
  console.log(`${event.type}: ${event.data.app}/${event.data.function} ${event.data.function_call_id}`, event.data.result ?? "");
}

const server = createServer((request, response) => {
  void (async () => {
    try {
      const body = await bodyOf(request); // the signature is of the bytes as they came, not of parsed JSON
      const headers = Object.fromEntries(Object.entries(request.headers).map(([name, value]) => [name, String(value)]));
      const event = webhook.verify(body, headers) as CallEvent;
      receive(String(request.headers["webhook-id"]), event);
      response.writeHead(204).end();
    } catch (error) {
      if (error instanceof WebhookVerificationError) response.writeHead(401).end(`${error.message}\n`);
      else if (error instanceof RangeError) response.writeHead(413).end(`${error.message}\n`);
      else response.writeHead(500).end();
      console.error("refused:", error instanceof Error ? error.message : error);
    }
  })();
});

server.listen(Number(process.env["PORT"] ?? 8080), "127.0.0.1", () => {
  console.log(`receiving on port ${(server.address() as AddressInfo).port}`);
});
