"""From a person to a painted grid: the order in which what lies in front hides what lies behind."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from medfm.synthetic.anatomy import near, window
from medfm.synthetic.ct_body import Trunk, chain, ellipsoid, path
from medfm.synthetic.ct_grid import Box, Points
from medfm.synthetic.ct_lesions import Lesion
from medfm.synthetic.ct_paint import Canvas
from medfm.synthetic.lung_trees import vessels
from medfm.synthetic.skeleton import airways, ribs, shoulders, spine, vertebra_height

_CORTEX = 1.4  # mm
SIDES = ((-1, "right"), (1, "left"))


def paint(c: Canvas, trunk: Trunk, lesions: dict[str, list[Lesion]], grain: np.ndarray) -> None:
    """Everything of the patient; grain: smooth noise ``[X, Y, Z]`` of mean 0 and deviation 1, which makes the bowel's
    loops."""
    _walls(c, trunk)
    _bowel(c, trunk, grain)
    _stomach(c, trunk)
    _upper_abdomen(c, trunk, lesions)
    _chest(c, trunk, lesions)
    _vessels(c, trunk)
    _bones(c, trunk)


def _walls(c: Canvas, trunk: Trunk) -> None:
    t = trunk.thorax
    everywhere = (slice(None), slice(None), slice(None))
    x, y, z = c.grid.points(everywhere)
    skin = trunk.skin(x, y, z, True)
    if t.breast:
        r = t.breast
        box = c.grid.box((-250 * t.width, -220 * t.depth - r, -250), (250 * t.width, 0, 80))
        bx, by, bz = c.grid.points(box)
        breast = trunk.breasts(bx, by, bz)
        np.maximum(skin[box], breast, out=skin[box])
    c.solid(everywhere, skin, "skin", "body")
    c.solid(everywhere, skin - 2, "fat")
    if t.breast:
        gland = np.minimum(
            breast - 12, np.sin(bx * 0.21) + np.sin(bz * 0.17) + np.sin(by * 0.19 + bx * 0.1) - 0.2
        )
        c.solid(box, gland, "breast")
    c.solid(everywhere, trunk.skin(x, y, z, False), "muscle")
    a, b = t.extent()
    box = c.grid.box((-a - 20, -b - 20, -400), (a + 20, b + 20, 128 * t.height))
    x, y, z = c.grid.points(box)
    cavity = trunk.cavity(x, y, z)
    c.solid(box, cavity, "fat")
    # fat between the muscles of the back, and the muscles beside the lumbar spine
    for side, _ in SIDES:
        levels = np.array([trunk.vertebra(k) for k in (11.3, 13, 15, 17.5)])
        front = trunk.spine_front(levels)
        knots = np.stack(
            [side * np.array([22, 33, 42, 52]) * t.width, front + np.array([12, 13, 12, 8]), levels], -1
        )
        size = np.interp(np.linspace(0, 3, 60), [0, 1, 2, 3], [7, 14, 19, 22]) * (1.05 if t.male else 0.88)
        c.tube(path(knots, 60), size, "muscle")


def _bowel(c: Canvas, trunk: Trunk, grain: np.ndarray) -> None:
    t = trunk.thorax
    low = t.domes[0] - 78 * t.height
    box = c.grid.box((-118 * t.width, -98 * t.depth, -420), (116 * t.width, 52 * t.depth, low))
    x, y, z = c.grid.points(box)
    if not x.size:
        return
    loops = ndimage.gaussian_filter(grain[box], 7.0 / np.array(c.grid.spacing))
    loops *= np.float32(1 / max(float(loops.std()), 1e-6))
    room = np.minimum(trunk.cavity(x, y, z) - 9, (low - z) * np.float32(0.6) - (y + 40) * np.float32(0.35))
    lean = np.clip((22 - t.fat) / 18, -0.5, 0.8)  # the thin have little fat among their bowel
    lumps = np.minimum((loops + np.float32(0.15 + 0.6 * lean + 0.4 * (trunk.shape[40] - 0.5))) * 9, room)
    c.solid(box, lumps, "bowel")
    c.solid(box, np.minimum(loops * 9 - 15, np.minimum(room, -y - 24)), "gas")
    points, radius = trunk.colon()
    kept = points[:, 2] > c.grid.corner[2] - 45
    if not kept.any():
        return
    points, radius = points[kept], radius[kept]
    c.tube(points, radius, "bowel")
    # gas rises to the front of each loop, what is left lies behind
    full = trunk.shape[41:44]
    c.tube(points + np.array([0, 2, 0]), radius - 3, "stool")
    gas = (np.sin(np.arange(len(points)) * 0.23 + 6 * full[0]) > 0.5 - 1.1 * full[1]) & (radius > 6)
    if gas.any():
        c.tube((points - (0, 5, 0))[gas], (radius * (0.45 + 0.3 * full[2]))[gas], "gas")


def _stomach(c: Canvas, trunk: Trunk) -> None:
    points, radius = trunk.stomach
    reach = radius[:, None] + 4
    box = c.grid.box((points - reach).min(0), (points + reach).max(0))
    x, y, z = c.grid.points(box)
    wall = np.minimum(trunk.cavity(x, y, z) - 4, trunk.under_diaphragm(x, y, z) - 1)
    inside = np.minimum(chain(x, y, z, points, radius), wall)
    c.solid(box, inside, "stomach_wall", "stomach")
    lumen = inside - np.float32(3.5)
    c.solid(box, lumen, "meal")
    back = c.grid.scanner[1][:, box[1]] - c.grid.pose.shift[1]
    level = np.float32(-58 + 42 * min(trunk.thorax.gas, 1.6) + 6 * trunk.shape[44])
    c.solid(box, np.minimum(lumen, level - back), "gas")


def _upper_abdomen(c: Canvas, trunk: Trunk, lesions: dict[str, list[Lesion]]) -> None:
    t = trunk.thorax
    w, d, h, top = t.width, t.depth, t.height, t.domes[0]
    tail = trunk.spleen_centre
    knots = [
        (-34 * w, -8 * d, top - 122 * h),
        (-8 * w, -18 * d, top - 104 * h),
        (30 * w, -4 * d, top - 96 * h),
    ]
    knots += [(58 * w, 26 * d, top - 88 * h), (tail[0] - 36, tail[1] - 6, top - 84 * h)]
    c.tube(path(knots, 60), np.interp(np.linspace(0, 1, 60), [0, 0.3, 0.6, 1], [14, 10, 10, 7]), "pancreas")
    centre = trunk.spleen_centre
    grown = max(trunk.spleen / 190, 1.0) ** (1 / 3)
    below, above = np.array([80, 90, 110]) * grown, np.array([70, 90 * grown, 90])
    box = c.grid.box(centre - below, centre + above)
    c.solid(box, trunk.in_spleen(*c.grid.points(box)), "spleen", "spleen")
    for side, name in SIDES:
        centre, radii, _ = trunk.kidney_axes(side)
        box = c.grid.box(centre - radii.max() - 8, centre + radii.max() + 8)
        x, y, z = c.grid.points(box)
        body, sinus = trunk.kidney(side, x, y, z)
        wall = trunk.cavity(x, y, z) - 2
        body = np.minimum(body, wall)
        c.solid(box, np.minimum(body + 4, wall), "fat")
        c.solid(box, body, "cortex", f"kidney_{name}")
        # pyramids: wedges of medulla, all round the sinus
        turn = np.arctan2(x - np.float32(centre[0]), y - np.float32(centre[1]))
        wedges = np.sin(3 * turn) + np.sin((z - np.float32(centre[2])) * np.float32(0.28)) + np.float32(0.75)
        c.solid(box, np.minimum(body - 6.5, wedges * 4), "medulla")
        c.solid(box, np.minimum(sinus, body + 6), "sinus")
    for cyst in lesions["kidney_cyst"]:
        box = c.grid.box(cyst.centre - cyst.reach, cyst.centre + cyst.reach)
        x, y, z = c.grid.points(box)
        c.solid(box, np.minimum(cyst.inside(x, y, z), trunk.cavity(x, y, z) - 2), "water", "kidney_cyst")
    _liver(c, trunk, lesions)


def _liver(c: Canvas, trunk: Trunk, lesions: dict[str, list[Lesion]]) -> None:
    t = trunk.thorax
    w, h, top = t.width, t.height, t.domes[0]
    box = c.grid.box((-158 * w, -112 * t.depth, top - 215 * h), (120 * w, 112 * t.depth, top + 4))
    x, y, z = c.grid.points(box)
    liver = trunk.in_liver(x, y, z)
    for cyst in lesions["kidney_cyst"]:
        liver = np.minimum(liver, -cyst.inside(x, y, z) - 2)
    c.solid(box, liver, "liver", "liver")
    cava = (-20 * w, float(trunk.spine_front(top - 30)) - 12, top - 22)
    hilum = (-22 * w, 12 * t.depth, top - 88 * h)
    trees = (  # three hepatic veins, three branches of the portal vein
        (cava, (-60 * w, 12, top - 34), (-98 * w, 4, top - 62)),
        (cava, (-42 * w, -20, top - 40), (-52 * w, -50, top - 78)),
        (cava, (4 * w, -26, top - 44), (36 * w, -48, top - 60)),
        (hilum, (-56 * w, 4, top - 82), (-98 * w, 22, top - 96)),
        (hilum, (-60 * w, -22, top - 92), (-92 * w, -36, top - 112)),
        (hilum, (-2 * w, -34, top - 74), (30 * w, -52, top - 72)),
    )
    for knots in trees:
        points = path(knots, 40)
        points = points[trunk.in_liver(*points.T.astype(np.float32)) > 1]
        if len(points):
            c.tube(points, np.linspace(5.0, 2.0, 40)[: len(points)], "liver_vein")
    c.tube(path([(-4 * w, 8, top - 126 * h), hilum], 30), 6.5, "venous")
    bile = ellipsoid(x, y, z, (-58 * w, -46 * t.depth, top - (118 + 16 * trunk.shape[45]) * h), (14, 20, 26))
    c.solid(box, bile - 1 + 4 * np.float32(trunk.shape[46]), "bile", "body")
    for lesion in lesions["liver_lesion"]:
        spot = c.grid.box(lesion.centre - lesion.reach, lesion.centre + lesion.reach)
        px, py, pz = c.grid.points(spot)
        c.solid(
            spot,
            np.minimum(lesion.inside(px, py, pz), trunk.in_liver(px, py, pz) - 1),
            "lesion",
            "liver_lesion",
        )


def _chest(c: Canvas, trunk: Trunk, lesions: dict[str, list[Lesion]]) -> None:
    t = trunk.thorax
    w, h = t.width, t.height
    a, b = t.extent()
    box = c.grid.box((-a, -b, min(t.domes) - 150 * max(w, 1)), (a, b, 128 * h))
    x, y, z = c.grid.points(box)
    if not x.size:
        return
    space = t.pleural_space(x, y, z)
    _spare_kidneys(trunk, (x, y, z), space)
    # the room between the lungs, from the diaphragm to the neck
    between = c.grid.box((-75, -b, min(t.domes) - 40), (85, b, 128 * h))
    mx, my, mz = c.grid.points(between)
    room = np.minimum(trunk.cavity(mx, my, mz), -trunk.under_diaphragm(mx, my, mz) - 3)
    _spare_kidneys(trunk, (mx, my, mz), room)
    c.solid(between, room, "mediastinum")
    right = x < 0
    for half, name in ((right, "lung_right"), (~right, "lung_left")):
        c.solid(box, np.where(half, space, np.float32(-50)), "lung", name)
    if max(trunk.effusion) > 0:
        _effusion(c, trunk, box, space)
    blood = vessels(t, t.pleural_space)
    keep = blood.points[:, 2] > c.grid.corner[2] - 10
    if keep.any():
        c.tube(blood.points[keep], blood.radius[keep], "lung_vessel")
    for nodule in lesions["lung_nodule"]:
        spot = c.grid.box(nodule.centre - nodule.reach, nodule.centre + nodule.reach)
        c.solid(spot, nodule.inside(*c.grid.points(spot)), "nodule", "lung_nodule")
    _heart(c, trunk)


def _spare_kidneys(trunk: Trunk, points: Points, inside: np.ndarray) -> None:
    """Cut off the deepest corner of the chest above a kidney, in place."""
    for side, _ in SIDES:
        centre, radii, _ = trunk.kidney_axes(side)
        spot = window(points, centre - radii.max() - 12, centre + radii.max() + 12)
        free = -trunk.near_kidney(side, *(near(v, spot) for v in points)) - 8
        np.minimum(inside[spot], free, out=inside[spot])


def _effusion(c: Canvas, trunk: Trunk, box: Box, space: np.ndarray) -> None:
    """Fluid behind a lung of somebody who lies on the back, and the lung that it has squeezed."""
    t = trunk.thorax
    x, y, z = c.grid.points(box)
    floor = np.float32(float(t.cage(np.array(-100.0))[2]))
    for (side, _), depth in zip(SIDES, trunk.effusion):
        if depth:
            # deepest at the base, thinner towards the top; it climbs at the wall
            deep = np.float32(depth) * np.clip((70 * t.height - z) / (150 * t.height), 0, 1.15).astype(
                np.float32
            )
            rise = np.float32(6) * (np.abs(x) / np.float32(130 * t.width)) ** 2
            fluid = np.where((x < 0) == (side < 0), y - (floor - deep - rise), np.float32(-50))
            c.solid(box, np.minimum(space, fluid + 7), "atelectasis")
            c.solid(box, np.minimum(space, fluid), "water", "effusion")


def _heart(c: Canvas, trunk: Trunk) -> None:
    t = trunk.thorax
    boxes = [
        np.stack([centre - radii.max() * 1.2, centre + radii.max() * 1.2])
        for centre, radii, _ in t.heart_parts
    ]
    low, high = np.min([b[0] for b in boxes], axis=0), np.max([b[1] for b in boxes], axis=0)
    box = c.grid.box(low, high)
    x, y, z = c.grid.points(box)
    if not x.size:
        return
    heart = t.in_heart(x, y, z)
    c.solid(box, heart, "mediastinum")
    c.solid(box, heart - 3, "myocardium", "heart")
    ventricles, right_atrium, left_atrium, trunk_ = t.heart_parts
    centre, radii, axes = ventricles
    across = axes[1] * np.sign(axes[1][1])  # to the back
    for shift, scale, name in (
        (0.30, (0.66, 0.46, 0.55), "blood"),
        (-0.48, (0.72, 0.27, 0.62), "right_blood"),
    ):
        middle = centre + across * shift * radii[1] - axes[0] * 0.08 * radii[0]
        c.solid(box, np.minimum(ellipsoid(x, y, z, middle, radii * scale, axes), heart - 5), name)
    for (centre, radii, axes), name in (
        (right_atrium, "right_blood"),
        (left_atrium, "blood"),
        (trunk_, "right_blood"),
    ):
        c.solid(box, np.minimum(ellipsoid(x, y, z, centre, radii * 0.82, axes), heart - 5), name)


def _vessels(c: Canvas, trunk: Trunk) -> None:
    t = trunk.thorax
    w, d, h, top = t.width, t.depth, t.height, t.domes[0]
    below = trunk.spine_front(np.array([-260.0, -200, top - 60, top - 20]))
    cava = np.stack(
        [[-20, -20, -22 * w, -20], below - (11, 12, 14, 20), [-260.0, -200, top - 60, top - 20]], -1
    )
    c.tube(path([*cava, (-20, 6, top + 12)], 120), 11.0 * h, "venous", "body")
    c.tube(
        path([(-27 * w, -10, 92 * h), (-24, -10, 40 * h), (-20, -12, -10 * h)], 70),
        8.5 * h,
        "right_blood",
        "body",
    )
    for knots in ([(20, -22, 8 * h), (2, -6, 22 * h), (-34, 8, 2 * h)], [(21, -18, 12 * h), (34, 8, 16 * h)]):
        c.tube(path(knots, 50), 10.0 * h, "right_blood", "body")
    arch = np.array([4, 0, 54 * h])
    for end in ((-24, -12, 104), (14, -6, 104), (26, 4, 106)):
        c.tube(
            path(
                [
                    arch + np.array(end) * (0.3, 0.4, 0),
                    np.array(end) * (w, d, h),
                    np.array(end) * (1.2, 1, 1.5),
                ],
                50,
            ),
            5.0,
            "blood",
            "body",
        )
    gullet = np.array([120.0, 60, 0, -60, top - 10])
    front = np.minimum(trunk.spine_front(gullet) - 8, 30 * d + 0 * gullet)
    c.tube(path(np.stack([[2, 2, -2, 6, 18], front, gullet], -1), 120), 7.5, "oesophagus", "body")
    axis, radius = trunk.aorta
    c.tube(axis, radius, "blood", "aorta")
    for side, _ in SIDES:  # renal arteries and veins
        centre, _, _ = trunk.kidney_axes(side)
        start = np.array([9.0, float(trunk.spine_front(centre[2])) - 10, centre[2] + 4])
        c.tube(path([start, centre - (side * 22, 4, 0)], 40), 3.2, "venous")
    air = airways(t)
    c.tube(air.points, air.radius + 1.6, "cartilage")
    c.tube(air.points, air.radius, "airway", "airways")


def _bones(c: Canvas, trunk: Trunk) -> None:
    t = trunk.thorax
    k = np.arange(-3.0, 18.0, 0.25)
    z = vertebra_height(t, k)
    front = trunk.spine_front(z)
    wide = np.clip(24 + 1.2 * k, 20, 42) * (0.8 + 0.2 * t.width)
    for shift in (-1, 0, 1):
        for dy in (9, 17, 25):
            disc = np.stack([shift * (wide / 2 - 8.5), front + dy, z], -1)
            c.tube(disc, 8.0, "disc", "spine")
    for parts, marrow, label in (
        (spine(t, 18), "marrow", "spine"),
        (ribs(t), "rib_marrow", "ribs"),
        (shoulders(t, arms=False), "rib_marrow", None),
    ):
        points, radius = (np.concatenate(v) for v in zip(*((p, r) for p, r, _ in parts)))
        keep = points[:, 2] > c.grid.corner[2] - 15
        if not keep.any():
            continue
        points, radius = points[keep], radius[keep]
        c.tube(points, radius, "bone", label)
        core = radius - _CORTEX * t.bone
        hollow = core > 0.8
        if hollow.any():
            c.tube(points[hollow], core[hollow], marrow)
    canal = np.stack([0 * z, front + 17 + 24, z], -1)
    c.tube(canal, 7.5, "canal", "spine")
