"""The stages of the work in, the node's place in ComfyUI's menu out: its number is the order.

A workflow does not store the place, so it may change. The number also gives a node its color
(web/fusequant.js) and is translated in locales/.
"""

from __future__ import annotations

PLAN = "FuseQuant/0 plan"
LOAD = "FuseQuant/1 load"
FUSE = "FuseQuant/2 fuse"
QUANTIZE = "FuseQuant/3 quantize"
RUN = "FuseQuant/4 run"
SAVE = "FuseQuant/5 save"
MEASURE = "FuseQuant/6 measure"
STAGES = (PLAN, LOAD, FUSE, QUANTIZE, RUN, SAVE, MEASURE)
