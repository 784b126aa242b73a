// Plain `fetch` to a web endpoint: needs no package, and works in browsers too.

import { toAnalysis } from "./analysis.ts";
import { requiredUrl } from "./environment.ts";
import { EndpointError, sendForJson } from "./web-requests.ts";

const url = requiredUrl("ANALYSIS_URL", "the address that `modal deploy app.py` printed for `analysis`");

try {
  const answer = await sendForJson(url, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ text: "a few remarkable words" }),
  });
  const analysis = toAnalysis(answer);
  console.log(`${analysis.words} words, the longest is ${analysis.longest}`);
} catch (error) {
  if (error instanceof EndpointError) {
    console.error(error.message); // the program there, or the platform, refused
  } else if (error instanceof DOMException && error.name === "TimeoutError") {
    console.error(`${url.host} took too long`);
  } else {
    throw error; // no connection, or a bug of ours
  }
  process.exitCode = 1;
}
