"""Whether a program in a container listens already.

The kernel tells nobody when a socket begins to listen, so it is asked by connecting, at first often, then less so.
"""

import asyncio

FIRST_DELAY_S = 0.01
LONGEST_DELAY_S = 0.25
ATTEMPT_S = 1.0  # for one connection


async def answering(address: str, port: int) -> None:
    """Returns once something accepts connections there, or at once where there is no address; the caller sets a limit."""
    delay_s = FIRST_DELAY_S
    while address and not await _accepts(address, port):
        await asyncio.sleep(delay_s)
        delay_s = min(LONGEST_DELAY_S, delay_s * 2)


async def _accepts(address: str, port: int) -> bool:
    try:
        async with asyncio.timeout(ATTEMPT_S):
            _, writer = await asyncio.open_connection(address, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True
