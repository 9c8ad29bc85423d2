"""Parts that the public modules share. Other distributions import some of them, so their names stay."""
