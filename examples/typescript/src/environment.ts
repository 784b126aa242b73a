// What differs from one installation to the next comes from the environment, and nowhere else.

/** The value of a variable; throws an error that says what it is for where it is missing. */
export function required(name: string, meaning: string): string {
  const value = process.env[name];
  if (value === undefined || value === "") {
    throw new Error(`${name} is not set: it is ${meaning}. README.md says where to get it.`);
  }
  return value;
}

/** As `required`, and an absolute URL. */
export function requiredUrl(name: string, meaning: string): URL {
  const value = required(name, meaning);
  if (!URL.canParse(value)) throw new Error(`${name} is ${JSON.stringify(value)}, which is not a URL: it is ${meaning}.`);
  return new URL(value);
}
