// Semantic search: the class of examples/embeddings by its name, many texts at once; the platform makes batches of them.

import { ModalClient, NotFoundError, RemoteError } from "modal";
import { required } from "./environment.ts";

const APP = "embeddings";
const TEXTS = [
  "The invoice is due at the end of the month.",
  "A cat sleeps on the warm windowsill.",
  "The server was restarted after the update.",
  "Bread rises better in a warm kitchen.",
];

/** Checks what came over the wire: a vector of numbers. */
function toVector(value: unknown): number[] {
  if (Array.isArray(value) && value.length > 0 && value.every((entry) => typeof entry === "number")) return value;
  throw new TypeError(`not a vector: ${JSON.stringify(value).slice(0, 200)}`);
}

/** Of vectors of length one: their cosine. */
function similarity(left: number[], right: number[]): number {
  return left.reduce((sum, value, index) => sum + value * (right[index] ?? 0), 0);
}

required("MODAL_SERVER_URL", "the address of your platform's API, which `pilotlight env` prints with the credentials");
const client = new ModalClient();
const query = process.argv[2] ?? "an animal takes a nap";

try {
  const embedder = await (await client.cls.fromName(APP, "Embedder")).instance();
  const embed = embedder.method("embed");
  const vectorOf = async (text: string): Promise<number[]> => toVector(await embed.remote([text]));
  const [wanted, ...found] = await Promise.all([query, ...TEXTS].map(vectorOf));
  if (wanted === undefined) throw new Error("unreachable: there is a query");
  const ranked = TEXTS.map((text, index) => ({ text, score: similarity(wanted, found[index] ?? []) }));
  ranked.sort((left, right) => right.score - left.score);
  for (const { text, score } of ranked) console.log(`${score.toFixed(3)}  ${text}`);
} catch (error) {
  if (error instanceof NotFoundError) {
    console.error(`${error.message}. Deploy it: modal deploy ../embeddings/app.py`);
  } else if (error instanceof RemoteError) {
    console.error(`the class raised: ${error.message}`);
  } else {
    throw error;
  }
  process.exitCode = 1;
}
client.close();
process.exit(); // an open connection would keep the process alive
