// What app.py's `analyze` returns, whichever way it is asked.

export interface Analysis {
  words: number;
  longest: string;
}

/** Checks what came over the wire: a type annotation alone proves nothing about it. */
export function toAnalysis(value: unknown): Analysis {
  if (typeof value === "object" && value !== null && "words" in value && "longest" in value) {
    const { words, longest } = value;
    if (typeof words === "number" && typeof longest === "string") return { words, longest };
  }
  throw new TypeError(`not an analysis: ${JSON.stringify(value)}`);
}
