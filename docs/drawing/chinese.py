"""The labels of the course's pictures in Chinese."""

CHINESE: dict[str, str] = {
    # titles
    "A convex function lies below its chords, and\ngradient descent on it below a known bound": (
        "凸函数位于弦的下方，\n梯度下降的损失低于理论上界"
    ),
    "A small learning rate is slow, a large one diverges": "学习率太小则慢，太大则发散",
    "The closer to the ridge, the longer the plateau": "离脊线越近，停滞越久",
    "Five optimizers, each at its best learning rate": "五种优化器，各用其最佳学习率",
    "A larger b gives a smoother average that lags more": "b 越大，平均越平滑，滞后也越多",
    "Only SGD's steps stay ten times as large\nwhen the gradients grow tenfold": (
        "梯度增大十倍后，\n只有 SGD 的步长一直大十倍"
    ),
    "AdamW decays every weight alike; an L2 penalty\nspares the weights with large gradients": (
        "AdamW 对所有权重的衰减相同；\nL2 惩罚几乎不衰减梯度大的权重"
    ),
    "Without warm-up, Adam's first steps are the largest": "没有预热时，Adam 最初几步最大",
    "Schedules with decay lead only at the end": "带衰减的调度到最后才领先",
    "Gradients explode or vanish exponentially with depth": "梯度随深度指数级爆炸或消失",
    "Clipping by norm keeps the direction;\nclipping by value changes it": ("按范数裁剪保持方向；\n按值裁剪改变方向"),
    "After one huge gradient, Adam hardly moves\nfor a thousand steps; clipping prevents it": (
        "一次巨大的梯度使 Adam 在一千步内\n几乎停滞；裁剪可以避免"
    ),
    "Descent diverges beyond a curvature of 2 / η,\nand training rises to this edge and stays there": (
        "曲率超过 2 / η 时梯度下降发散；\n训练会升到这一边缘并停留在那里"
    ),
    "Adam's moments and step sizes by role": "各类参数的 Adam 矩与更新幅度",
    # titles of panels
    "chords": "弦",
    "logistic regression": "逻辑回归",
    "paths": "轨迹",
    "gradient descent, η = 0.1": "梯度下降，η = 0.1",
    "distance from the ridge": "到脊线的距离",
    "quadratic": "二次函数",
    "saddle": "鞍点",
    "noisy gradients, their averages m": "带噪声的梯度及其平均 m",
    "weight in m": "在 m 中的权重",
    "gradients of 1 for 300 steps, then of 10": "前 300 步梯度为 1，之后为 10",
    "weight of 1, three steps, decay 0.5": "权重为 1，三步，衰减系数 0.5",
    "gradients of pure noise": "梯度为纯噪声",
    "SGD on a noisy parabola, mean of 2,000 runs": "带噪声的抛物线上的 SGD，2,000 次平均",
    "a deep linear network at initialization": "初始化时的深度线性网络",
    "gradients of 1, and one of 1,000 at step 40": "梯度为 1，仅第 40 步为 1,000",
    "distance from the minimum": "到最小值的距离",
    "largest curvature, 2 / η dotted": "最大曲率，虚线为 2 / η",
    "first moment": "一阶矩",
    "second moment": "二阶矩",
    "update / weight": "更新 / 权重",
    "lines; the gradient points to the right": "沿直线的损失；梯度指向右侧",
    "random plane": "随机平面",
    "plane of the trajectory": "轨迹平面",
    # axes
    "step": "步数",
    "steps ago": "多少步之前",
    "loss": "损失",
    "loss - minimum": "损失 - 最小值",
    "loss (nats/token)": "损失（nats/词元）",
    "learning rate": "学习率",
    "gradient": "梯度",
    "gradient norm": "梯度范数",
    "gradient norm, first layer": "第一层的梯度范数",
    "parameter": "参数",
    "first parameter": "第一个参数",
    "second parameter": "第二个参数",
    "flat direction": "平缓方向",
    "steep direction": "陡峭方向",
    "step size": "步长",
    "step size / learning rate": "步长 / 学习率",
    "size of the gradients": "梯度大小",
    "shrinkage": "缩减量",
    "layers": "层数",
    "norm": "范数",
    "distance / span": "距离 / 跨度",
    # lines
    "convex": "凸",
    "not convex": "非凸",
    "measured": "实测",
    "bound": "上界",
    "no warm-up": "无预热",
    "warm-up of 50": "预热 50 步",
    "constant 0.3": "常数 0.3",
    "constant 0.03": "常数 0.03",
    "cosine 0.3": "余弦 0.3",
    "size 1.2": "大小 1.2",
    "size 1": "大小 1",
    "size 0.8": "大小 0.8",
    "clipped": "裁剪",
    "unclipped": "不裁剪",
    "no\nmomentum": "无动量",
    "momentum\n0.9": "动量\n0.9",
    "matrix": "矩阵",
    "embedding": "嵌入",
    "vector": "向量",
    "training batches": "训练批次",
    "validation split": "验证集",
}
NAMES = {  # the same in both languages: names of optimizers and of functions, commands
    "Rosenbrock", "sgd", "momentum", "adagrad", "rmsprop", "adam", "AdamW", "Adam + L2", "wsd 0.3",
    "python train.py --preset course",
}  # fmt: skip
