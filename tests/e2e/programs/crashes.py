"""Queues and dicts while the server is killed: what was acknowledged is there once, and nothing else. Takes the number of items."""

import sys
import threading

import modal

DEADLINE_S = 150.0
CONSUMERS = 4
PRODUCERS = 4


def produce(queue: modal.Queue, claims: modal.Dict, start: int, count: int) -> None:
    """Put each number once; a claim that this producer made is its own, though the answer may have been lost on the way."""
    for number in range(start, start + count):
        if not claims.put(number, start, skip_if_exists=True):
            raise RuntimeError(f"{number} was claimed by another")
        queue.put(number)


def consume(queue: modal.Queue, claims: modal.Dict, got: list[int], total: int) -> None:
    while len(got) < total:
        for number in queue.get_many(3, block=False):
            claims.pop(number)  # raises KeyError if another has popped it
            got.append(number)
            if len(got) % 100 == 0:
                print(f"got so far: {len(got)}", flush=True)


def main(total: int) -> None:
    failures: list[BaseException] = []

    def guarded(work: object, *args: object) -> threading.Thread:
        def run() -> None:
            try:
                work(*args)  # type: ignore[operator]
            except BaseException as failure:  # noqa: BLE001 - raised again below
                failures.append(failure)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    got: list[int] = []
    with modal.Queue.ephemeral() as queue, modal.Dict.ephemeral() as claims:
        share = total // PRODUCERS
        threads = [guarded(produce, queue, claims, start, share) for start in range(0, total, share)]
        threads += [guarded(consume, queue, claims, got, total) for _ in range(CONSUMERS)]
        for thread in threads:
            while thread.is_alive() and not failures:
                thread.join(1.0)
        if failures:
            raise failures[0]
        lost, doubled = set(range(total)) - set(got), len(got) - len(set(got))
        print(f"lost {len(lost)}, doubled {doubled}, left {queue.len()} and {claims.len()}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
