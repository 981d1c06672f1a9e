"""Who may use how much: shares, rates and turns of sources, people and machines."""
