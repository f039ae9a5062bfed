"""Commands that train what the results page lists: reproduce, study."""

from ..errors import UserError
from ..paths import expand
from .grammar import command


@command
def reproduce_command(
    row: str | None = None,
    /,
    *,
    seeds: int | None = None,
    workdir: str = "runs/reproduce",
    data_dir: str | None = None,
    max_steps: int | None = None,
) -> None:
    """Train a row of the table of results over its seeds; without a row, list them.

    Runs that are finished are kept, and the one that was interrupted resumes.

    Args:
        row: A row of the list.
        seeds: The number of seeds, 0, 1, ...; by default that of the row.
        workdir: The folder of the runs, WORKDIR/ROW/SEED.
        data_dir: The folder of the data, where they are not downloaded; of flowers the photos.
        max_steps: Stop each run after so many steps, to try the command out.
    """
    from rich.console import Console

    from ..report.tables import text_table
    from ..results.rows import ROWS, find_row

    console = Console(highlight=False)
    if row is None:
        rows = [
            (
                one.name,
                f"{one.seeds}",
                f"{one.target:.2%}" if one.target else "–",
                *(f"{p.accuracy:.2%}" if p else "–" for p in (one.paper, one.public)),
                one.cost,
            )
            for one in ROWS.values()
        ]
        columns = ("row", "seeds", "asked", "paper", "best public", "time of a seed")
        console.print(text_table("flax-resnet reproduce ROW", columns, rows))
        return
    from ..results.runs import summarize_row, train_row

    chosen = find_row(row)
    count = chosen.seeds if seeds is None else seeds
    if count < 1:
        raise UserError(f"--seeds is {count}; it must be 1 or more.", exit_code=2)
    folder = expand(workdir) / chosen.name
    done = train_row(chosen, range(count), folder, data_dir=data_dir, max_steps=max_steps)
    names, accuracies, sentences = summarize_row(chosen, folder, range(count))
    if accuracies:
        console.print(text_table(chosen.name, names, accuracies))
    print("\n".join(sentences))
    if not done:
        print("Stopped; the same command resumes.")


@command
def study_command(
    study: str,
    /,
    *,
    budget: int | None = None,
    seeds: int = 1,
    workdir: str = "runs/study",
    data_dir: str | None = None,
    max_steps: int | None = None,
) -> None:
    """Train architectures equally and write a page with their curves beside the paper's errors.

    Runs that are finished are kept, and the one that was interrupted resumes.

    Args:
        study: degradation, shortcuts, cardinality or depth.
        budget: The epochs of each run; by default the 182 of the paper.
        seeds: The number of seeds, 0, 1, ...
        workdir: The folder of the runs, WORKDIR/STUDY_BUDGET/NET/SEED, and of the page.
        data_dir: The folder of CIFAR-10's archive, where it is not downloaded.
        max_steps: Stop each run after so many steps, to try the command out.
    """
    from ..config import load_config
    from ..results.studies import RECIPE, find_study, train_study, write_study

    chosen = find_study(study)
    epochs = load_config(RECIPE).epochs if budget is None else budget
    for option, value in (("budget", epochs), ("seeds", seeds)):
        if value < 1:
            raise UserError(f"--{option} is {value}; it must be 1 or more.", exit_code=2)
    folder = expand(workdir) / f"{chosen.name}_{epochs}"
    done = train_study(
        chosen, range(seeds), folder, budget=epochs, data_dir=data_dir, max_steps=max_steps
    )
    page = write_study(chosen, range(seeds), folder, epochs)
    print(f"Open {page}." if page else "No run has done all its epochs: there is no page yet.")
    if not done:
        print("Stopped; the same command resumes.")
