"""How the embedded model is made, stage by stage; `python -m training` runs what is left to do."""
