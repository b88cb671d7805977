"""Opens the port for agents, where the options and the environment allow it."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

from bubu_operator.controllers.context import Context
from bubu_operator.jobpass.addresses import split_address
from bubu_operator.jobpass.listener import Listener, review_token
from bubu_operator.jobpass.tls import ServerIdentity

__all__ = ["listen_for_agents"]

logger = logging.getLogger(__name__)


def listen_for_agents(
    context: Context, environ: Mapping[str, str] = os.environ
) -> tuple[Listener, str] | None:
    """Open the port; return it and what agents call it by. None where there are to be no agents."""
    options = context.options
    if not options.job_image or not options.job_pass_address:
        return None
    called = options.job_pass_advertise or environ.get("POD_IP", "")
    if not called:
        logger.info(
            "no retention passes by Jobs: agents cannot call this process back; set --job-pass-advertise, or "
            "POD_IP from the pod's status.podIP"
        )
        return None
    try:
        host, port = split_address(options.job_pass_address)
        name, called_port = (called, None) if called == environ.get("POD_IP") else split_address(called)
        listener = Listener(
            (host, port or 0),
            ServerIdentity.make(),
            review=lambda token: review_token(context.client, token),
            may_send=lambda: context.fence.is_open,
            count=lambda result: context.metrics.pass_callers.labels(result).inc(),
        )
    except (ValueError, OSError) as error:
        logger.error(  # noqa: TRY400 - the message says it all
            "no retention passes by Jobs: the port for agents (%s) cannot be opened: %s",
            options.job_pass_address,
            error,
        )
        return None
    shown = f"[{name}]" if ":" in name else name
    address = f"https://{shown}:{called_port or listener.port}"
    logger.info("agents of retention passes call %s", address, extra={"port": listener.port})
    return listener, address
