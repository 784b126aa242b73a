// Runs the checks of a module: every function that it exports as `check…`. Each ends as one JSON line on stdout.
//
// A module of checks is an ordinary program that a person could have written: the platform is named by the environment alone.

type Check = () => Promise<void>;

const [file, ...wanted] = process.argv.slice(2);
if (file === undefined) throw new Error("usage: node checks.ts MODULE [CHECK …]");
const found = (await import(new URL(file, import.meta.url).href)) as Record<string, unknown>;

for (const [name, check] of Object.entries(found)) {
  if (!name.startsWith("check") || (wanted.length > 0 && !wanted.includes(name))) continue;
  const began = performance.now();
  let error: string | null = null;
  try {
    await (check as Check)();
  } catch (thrown) {
    error = thrown instanceof Error ? (thrown.stack ?? thrown.message) : String(thrown);
  }
  console.log(JSON.stringify({ check: name, error, seconds: Math.round(performance.now() - began) / 1000 }));
}
process.exit(0); // the client keeps its connection, and with it the process
