"""What do clean labels look like to the network now?"""
