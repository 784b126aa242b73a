"""What a function's definition says of the web: its endpoints, and the addresses that it is given when it is created."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from modal_proto import api_pb2

from pilotlight.core.hosts import check_custom_domain
from pilotlight.core.labels import DEFAULT_EPHEMERAL_SUFFIX, Addresses, Label, label_in, label_of

WEB_SERVER = api_pb2.WEBHOOK_TYPE_WEB_SERVER

Defined = api_pb2.Function | api_pb2.FunctionPrecreateRequest
Described = api_pb2.Function | api_pb2.MethodDefinition


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address of a published function. `port` is 0 where requests are inputs of the function."""

    label: str
    method_name: str
    custom_domains: tuple[str, ...]
    port: int
    requires_proxy_auth: bool


def is_web(function: api_pb2.Function) -> bool:
    """Whether requests of HTTP can reach the function, or one of its methods."""
    return bool(
        function.is_server
        or function.webhook_config.type
        or any(method.webhook_config.type for method in function.method_definitions.values())
    )


def has_no_inputs(function: api_pb2.Function) -> bool:
    """Whether requests of HTTP are all that reaches the function."""
    methods = function.method_definitions.values()
    by_methods = bool(methods) and all(method.webhook_config.type for method in methods)
    return bool(function.is_server or function.webhook_config.type or by_methods)


def endpoints_of(function: api_pb2.Function) -> list[Endpoint]:
    """All endpoints of a function that has its addresses."""
    if function.is_server:
        http = function.http_config
        return [Endpoint(function.flash_service_label, "", (), http.port, not http.unauthenticated)]
    described: list[tuple[str, Described]] = [("", function), *sorted(function.method_definitions.items())]
    return [_endpoint(name, item) for name, item in described if item.webhook_config.type and item.web_url]


def _endpoint(method_name: str, described: Described) -> Endpoint:
    config = described.webhook_config
    return Endpoint(
        label=label_in(described.web_url),
        method_name=method_name,
        custom_domains=tuple(domain.name.lower() for domain in config.custom_domains),
        port=config.web_server_port if config.type == WEB_SERVER else 0,
        requires_proxy_auth=config.requires_proxy_auth,
    )


@dataclass(frozen=True, slots=True)
class Naming:
    """Gives the functions of one app their addresses."""

    addresses: Addresses
    workspace: str
    web_suffix: str
    app: str
    is_run: bool  # a mere run, whose addresses must not take those of the deployment
    is_taken: Callable[[str], bool]  # whether another app serves at this label now

    def name(self, function: api_pb2.Function) -> None:
        """Write its addresses into a definition; raises InvalidInput for a custom domain that it can't have."""
        if function.is_server:
            label = self._label(function.function_name.removesuffix(".*"), function.webhook_config)
            function.flash_service_label = label.text
            function.flash_service_urls[:] = [self.addresses.url(label.text)]
            return
        for described, label in self._labels(function):
            described.web_url = self.addresses.url(label.text)
            for domain in described.webhook_config.custom_domains:
                check_custom_domain(domain.name, self.addresses.domain, f"Function {described.function_name!r}")
            info = api_pb2.WebUrlInfo(truncated=label.truncated, label_stolen=self.is_taken(label.text))
            described.web_url_info.CopyFrom(info)
            urls = [self.addresses.custom_url(domain.name) for domain in described.webhook_config.custom_domains]
            del described.custom_domain_info[:]
            described.custom_domain_info.extend(api_pb2.CustomDomainInfo(url=url) for url in urls)

    def _labels(self, function: api_pb2.Function) -> Iterator[tuple[Described, Label]]:
        for described in (function, *function.method_definitions.values()):
            if described.webhook_config.type:
                yield described, self._label(described.function_name, described.webhook_config)

    def name_early(self, request: api_pb2.FunctionPrecreateRequest, handle: api_pb2.FunctionHandleMetadata) -> None:
        """Write the addresses that a function will have into its first handle."""
        if request.webhook_config.type:
            handle.web_url = self.addresses.url(self._label(request.function_name, request.webhook_config).text)
        for name, method in request.method_definitions.items():
            if method.webhook_config.type:
                label = self._label(method.function_name, method.webhook_config)
                handle.method_handle_metadata[name].web_url = self.addresses.url(label.text)

    def _label(self, function_name: str, config: api_pb2.WebhookConfig) -> Label:
        return label_of(
            workspace=self.workspace,
            web_suffix=self.web_suffix,
            app=self.app,
            function=function_name,
            requested=config.requested_suffix,
            ephemeral_suffix=(config.ephemeral_suffix or DEFAULT_EPHEMERAL_SUFFIX) if self.is_run else "",
        )


def follow_addresses(function: api_pb2.Function, handle: api_pb2.FunctionHandleMetadata, addresses: Addresses) -> None:
    """Bring the addresses of a definition and its handle to the domain and port of today."""
    for described in (function, *function.method_definitions.values()):
        if described.web_url:
            described.web_url = addresses.moved(described.web_url)
            for info, domain in zip(described.custom_domain_info, described.webhook_config.custom_domains, strict=True):
                info.url = addresses.custom_url(domain.name)
    if function.flash_service_label:
        function.flash_service_urls[:] = [addresses.url(function.flash_service_label)]
    hand_out_addresses(function, handle)


def hand_out_addresses(function: api_pb2.Function, handle: api_pb2.FunctionHandleMetadata) -> None:
    """Tell the holders of a handle the addresses of its definition."""
    handle.web_url = function.web_url
    handle._experimental_flash_urls[:] = function.flash_service_urls  # pyright: ignore[reportPrivateUsage]
    for name, method in function.method_definitions.items():
        handle.method_handle_metadata[name].web_url = method.web_url
