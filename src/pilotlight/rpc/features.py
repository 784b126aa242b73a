"""What people call the parts of the protocol that are not built yet: the words in which a call to one of them is refused."""

# By the beginning of a method's name; the longest that fits counts.
_FEATURES: dict[str, str] = {
    "AppDeploy": "deployments as clients before 1.1 made them",
    "AppPromote": "staged deployments",
    "AppSetObjects": "deployments as clients before 1.1 made them",
    "Attempt": "the input plane",
    "Audit": "the audit log",
    "CliCommandSuggest": "suggestions of the command line",
    "Cluster": "clustered functions",
    "Container": "commands inside running containers",
    "ContainerCheckpoint": "memory snapshots",
    "ContainerReloadVolumes": "sandboxes",
    "Curl": "requests to web functions (modal curl)",
    "Domain": "custom domains",
    "Endpoint": "hosted model endpoints",
    "Environment": "roles and budgets of environments",
    "Flash": "flash services",
    "FunctionCallGetDataIn": "web functions",
    "FunctionGetFlash": "flash services",
    "FunctionStartPtyShell": "interactive shells (modal shell)",
    "Image": "logs of past image builds (modal image logs)",
    "Map": "the input plane",
    "ObjectSuggest": "suggestions of the command line",
    "PersistentSandbox": "persistent sandboxes",
    "Proxy": "proxies; containers of a machine all leave by its own address, so leave them out where there is one machine",
    "Sandbox": "sandboxes",
    "ServiceUser": "service users",
    "Task": "commands inside running containers (modal shell, modal container exec)",
    "TaskCluster": "clustered functions",
    "Template": "templates",
    "Token": "managing tokens by the client; `pilotlight token create | list | revoke` does",
    "TokenFlow": "tokens by way of a browser; `pilotlight env --write-profile NAME` gives you one",
    "UserGroup": "roles and budgets of environments",
    "Webhook": "proxy authentication tokens",
    "Workspace": "workspace administration",
    "WorkspaceDashboardUrlGet": "the dashboard; `pilotlight status` shows what runs",
}


def feature_of(method: str) -> str:
    """The feature that a method which is not built belongs to, as the end of a sentence."""
    matches = [prefix for prefix in _FEATURES if method.startswith(prefix)]
    return f"it belongs to {_FEATURES[max(matches, key=len)]}" if matches else "the feature is missing"
