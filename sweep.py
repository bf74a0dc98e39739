"""Answer a question: load a study, check every arm, run what is missing, score, report."""

from ablate.cli.entry import sweep_main

if __name__ == "__main__":
    sweep_main()
