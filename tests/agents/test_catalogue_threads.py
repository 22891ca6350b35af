"""Workers read programs side by side."""

from concurrent.futures import ThreadPoolExecutor

from nightlab.agents.catalogue import syntax
from nightlab.evals.task import SHIPPED


def test_programs_can_be_parsed_by_several_threads_at_once() -> None:
    source = (SHIPPED / "byte_lm" / "program.py").read_text()

    def parse(number: int) -> int:
        return len(syntax.read(f"{source}\nNUMBER = {number}\n").body)

    with ThreadPoolExecutor(4) as pool:
        sizes = set(pool.map(parse, range(300)))
    assert len(sizes) == 1
