"""``abstream`` and ``python -m abstream.ops``: a missing extra is said in one line, not in a traceback."""

import sys

# The extra that brings a package, where it is not the worker's.
_EXTRAS = {
    **dict.fromkeys(("click", "rich", "structlog", "tomli", "yaml"), "cli"),
    **dict.fromkeys(("fastapi", "fastapi_offline", "uvicorn"), "gateway"),
    "cryptography": "signing",
    "datasets": "training",
    "opentelemetry": "otel",
}


def main() -> None:
    """The console script."""
    try:
        from .cli import main as run

        run()
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0], "worker")
        sys.exit(f"abstream: this needs {error.name}: pip install 'abstream[{extra}]'")
    except KeyboardInterrupt:  # while modules were being imported; click says the same of any later one
        sys.exit("\nAborted!")


if __name__ == "__main__":
    main()
