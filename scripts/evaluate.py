"""Measures a trained network on images, and says what it takes them for.

python scripts/evaluate.py runs/lenet5-20261121-193000
python scripts/evaluate.py runs/lenet5-20261121-193000 --best --predictions test.csv
python scripts/evaluate.py runs/lenet5-20261121-193000 --pictures three.png seven.jpg
"""

from cnnvjp.training.commands import evaluate_main

if __name__ == "__main__":
    evaluate_main()
