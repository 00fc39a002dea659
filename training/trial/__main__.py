"""`python -m clearsight.training.trial RUN_FOLDER`: the process of one trial."""

import sys

from clearsight.training.trial import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
