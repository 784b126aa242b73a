"""What is in another environment: deployed and made there; prints the ids that code elsewhere will try."""

import json
import sys

import modal

app = modal.App("permissions-deployed")


@app.function()
def echo(word):
    return word


@app.cls()
class Box:
    size: int = modal.parameter(default=1)

    @modal.method()
    def fill(self) -> int:
        return self.size


if __name__ == "__main__":
    environment = sys.argv[1]
    app.deploy(environment_name=environment)
    options = {"environment_name": environment, "create_if_missing": True}
    things, line = modal.Dict.from_name("permissions", **options), modal.Queue.from_name("permissions", **options)
    things["key"] = "of the other"
    volume = modal.Volume.from_name("permissions", **options).hydrate()
    modal.Secret.objects.create("permissions", {"HIDDEN": "1"}, environment_name=environment, allow_existing=True)
    secret = modal.Secret.from_name("permissions", environment_name=environment).hydrate()
    call = echo.spawn("hidden")
    call.get()
    found = {
        "call": call.object_id,
        "dict": things.object_id,
        "queue": line.hydrate().object_id,
        "volume": volume.object_id,
        "function": echo.object_id,
        "app": app.app_id,
        "secret": secret.object_id,
    }
    print(json.dumps(found))
