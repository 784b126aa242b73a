// Events of an endpoint as they happen. `fetch` rather than EventSource: it can send headers and a body, and be aborted.

import { requiredUrl } from "./environment.ts";
import { serverSentEvents } from "./server-sent-events.ts";
import { send } from "./web-requests.ts";

const url = requiredUrl("PROGRESS_URL", "the address that `modal deploy app.py` printed for `progress`");
url.searchParams.set("steps", "5");

const response = await send(url, { headers: { Accept: "text/event-stream" } });
if (response.body === null) throw new Error(`${url.href} answered without a body`);
for await (const { event, data } of serverSentEvents(response.body)) {
  if (event === "done") break;
  console.log(`${event}: ${data}`);
}
console.log("done");
