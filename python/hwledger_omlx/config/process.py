"""What of a configuration a process carries in its environment, as `omlx serve` puts it there.

Before anything is loaded that reads it: huggingface_hub takes its endpoint when it is imported.
"""

import os
from collections.abc import MutableMapping

from hwledger_omlx.config.configuration import Config
from hwledger_omlx.fork.home import VARIABLE as HOME

_VARIABLES = {
    "engine.home": (HOME,),
    "server.mcp_config": ("OMLX_MCP_CONFIG",),
    "network.hf_endpoint": ("HF_ENDPOINT",),
    "network.ms_endpoint": ("MODELSCOPE_DOMAIN",),
    "network.http_proxy": ("HTTP_PROXY", "http_proxy"),
    "network.https_proxy": ("HTTPS_PROXY", "https_proxy"),
    "network.no_proxy": ("NO_PROXY", "no_proxy"),
    "network.ca_bundle": ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"),
}


def put_environment(config: Config, environment: MutableMapping[str, str] | None = None) -> None:
    """Sets the variables that others read; what the configuration does not say stays as it is."""
    environment = os.environ if environment is None else environment
    for name, variables in _VARIABLES.items():
        value = config.value(name)
        if value is None:
            continue
        if name == "network.ms_endpoint":
            # The hub's client puts the scheme before it.
            value = value.split("://", 1)[-1].strip("/")
        for variable in variables:
            environment[variable] = value
