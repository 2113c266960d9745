"""A script in torchreid's style, with yacs and a stock engine; the five lines of xingaug are marked.

xingaug world runs/pedestrians --identities 40 --images-per-identity 6
python examples/torchreid_script.py data.root runs data.sources "['pedestrians']" augment.name xinggan_pose
"""

import sys

from yacs.config import CfgNode

from reid_integration import add_config, attach_config, register_market_folder  # xingaug 1: import
from reid_integration.compat import load_torchreid


def default_config() -> CfgNode:
    """Some of the keys of torchreid's scripts."""
    cfg = CfgNode()
    cfg.use_gpu = False
    cfg.data = CfgNode({"root": "reid-data", "sources": ["market1501"], "height": 128, "width": 64})
    cfg.data.transforms = ["random_flip"]
    cfg.data.norm_mean, cfg.data.norm_std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    cfg.train = CfgNode({"batch_size": 32, "max_epoch": 1, "seed": 1})
    return cfg


def main(arguments: list[str]) -> int:
    """Trains for an epoch; returns the number of rendered rows."""
    torchreid = load_torchreid()
    cfg = default_config()
    add_config(cfg)  # xingaug 2: the keys
    cfg.merge_from_list(arguments)
    names = [register_market_folder(f"{cfg.data.root}/{name}") for name in cfg.data.sources]  # xingaug 3: the folder
    manager = torchreid.data.ImageDataManager(
        root=cfg.data.root, sources=names, height=cfg.data.height, width=cfg.data.width,
        transforms=cfg.data.transforms, norm_mean=cfg.data.norm_mean, norm_std=cfg.data.norm_std,
        batch_size_train=cfg.train.batch_size, workers=0, use_gpu=cfg.use_gpu,
    )  # fmt: skip
    loader = attach_config(manager, cfg)  # xingaug 4: the hook
    model = torchreid.models.build_model("osnet_x0_25", manager.num_train_pids, pretrained=False)
    optimizer = torchreid.optim.build_optimizer(model)
    engine = torchreid.engine.ImageSoftmaxEngine(manager, model, optimizer, use_gpu=cfg.use_gpu)
    for engine.epoch in range(cfg.train.max_epoch):
        engine.set_model_mode("train")
        for batch in manager.train_loader:
            losses = engine.forward_backward(batch)
    rendered = 0 if loader is None else loader.synthetic  # xingaug 5: rendered rows
    print(f"last losses {losses}, {rendered} rows rendered")
    return rendered


if __name__ == "__main__":
    main(sys.argv[1:])
