"""How are labels and images read from files?"""
