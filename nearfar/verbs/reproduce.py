"""placeholder"""
def reproduce() -> None:
    """x"""
