// A web endpoint that asks for a proxy token (`requires_proxy_auth=True`). Its secret belongs on a server, never into a browser.

import { required, requiredUrl } from "./environment.ts";
import { CredentialsError, sendForJson } from "./web-requests.ts";

const url = requiredUrl("REPORT_URL", "the address that `modal deploy app.py` printed for `report`");
const headers = {
  "Modal-Key": required("PROXY_TOKEN_ID", "the id of a proxy token"),
  "Modal-Secret": required("PROXY_TOKEN_SECRET", "the secret of a proxy token"),
};
url.searchParams.set("month", "2026-11");

try {
  console.log("report:", await sendForJson(url, { headers }));
} catch (error) {
  if (!(error instanceof CredentialsError)) throw error;
  console.error(`${error.message}\nIs the token revoked, or of another environment? Make a new one as README.md says.`);
  process.exitCode = 1;
}
