"""x"""
def write_report(run: str) -> str:
    return run
