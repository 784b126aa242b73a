// Requests to web endpoints: a time-out, and an error that says what the other side said.

/** Longer than a cold start takes; a response that takes over 150 s arrives by a redirect, which `fetch` follows by itself. */
export const REQUEST_TIMEOUT_MS = 180_000;
const MAX_SHOWN_CHARS = 500;

/** The endpoint answered, and its answer is an error. */
export class EndpointError extends Error {
  override readonly name: string = "EndpointError";
  readonly status: number;

  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

/** The credentials are missing, wrong, revoked, or of another environment. */
export class CredentialsError extends EndpointError {
  override readonly name = "CredentialsError";
}

/** Sends a request; throws EndpointError for an answer outside 200 to 299, and a `TimeoutError` when time is up. */
export async function send(url: URL, init: RequestInit = {}, timeoutMs = REQUEST_TIMEOUT_MS): Promise<Response> {
  const response = await fetch(url, { ...init, signal: AbortSignal.timeout(timeoutMs) });
  if (response.ok) return response;
  const said = (await response.text()).trim().slice(0, MAX_SHOWN_CHARS);
  const message = `${init.method ?? "GET"} ${url.href} was answered with ${response.status}: ${said}`;
  throw response.status === 401 ? new CredentialsError(401, message) : new EndpointError(response.status, message);
}

/** Sends a request and returns the JSON of its answer, of which nothing is known yet. */
export async function sendForJson(url: URL, init: RequestInit = {}, timeoutMs = REQUEST_TIMEOUT_MS): Promise<unknown> {
  return (await send(url, init, timeoutMs)).json() as Promise<unknown>;
}
