"""The names and words that fill the sample company."""

from __future__ import annotations


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split())


DEPARTMENTS = ("Sales", "Support", "Logistics", "Engineering", "Finance", "Marketing", "Design", "Legal")
SELLING_DEPARTMENTS = DEPARTMENTS[:3]
"""Only people of these departments handle orders, so that some employees have none."""

TITLES = ("analyst", "manager", "engineer", "designer", "assistant", "accountant", "technician", "consultant")
OFFICES = ("Lisbon", "Vienna", "Dublin", "Hamburg", "Lyon", "Turin")

_FIRST = _split(
    "Ana Boris Clara Daniel Elena Felix Greta Hugo Irene Jonas Katia Leo Marta Nils Olivia Pavel Rosa Simon Tessa "
    "Ugo Vera Walter Yara Zeno"
)
_LAST = _split(
    "Almeida Bauer Costa Dvorak Eriksen Fontaine Garcia Hoffman Ivanov Jansen Keller Lombardi Moreau Novak Oliveira "
    "Petrov Quinn Rossi Santos Thomsen Urban Vidal Weber Zeman"
)
EMPLOYEES = tuple(f"{_FIRST[i % 24]} {_LAST[(7 * i + 5 * (i // 24)) % 24]}" for i in range(48))

CITIES = {
    "Portugal": ("Lisbon", "Porto"),
    "Austria": ("Vienna", "Graz"),
    "Ireland": ("Dublin", "Cork"),
    "Germany": ("Hamburg", "Leipzig"),
    "France": ("Lyon", "Nantes"),
    "Italy": ("Turin", "Verona"),
    "Norway": ("Oslo", "Bergen"),
    "Spain": ("Seville", "Bilbao"),
}
"""Country -> its cities, where the customers are."""

SEGMENTS = ("retail", "wholesale", "hospitality", "education")

_CUSTOMER_FIRST = _split(
    "Alder Birch Cedar Falcon Harbor Juniper Kingfisher Lantern Maple Meadow Oasis Orchard Pebble Ridge River Silver "
    "Summit Sunrise Willow Winter"
)
_CUSTOMER_LAST = _split("Bakery Hotel Clinic Books Studio Cafe School Market Gallery Garage Salon Florist")
CUSTOMERS = tuple(f"{_CUSTOMER_FIRST[i % 20]} {_CUSTOMER_LAST[(5 * i + 4 * (i // 20)) % 12]}" for i in range(60))

SUPPLIERS = (
    "Acorn Works",
    "Baltic Supply",
    "Copperfield",
    "Delta Trading",
    "Evergreen Goods",
    "Fjord Imports",
    "Granite Co",
    "Hillside Mills",
    "Ironbridge",
    "Jade Wholesale",
    "Kestrel Metals",
    "Lumen Factory",
    "Mondo Fabrics",
    "Nova Parts",
)
SUPPLIER_COUNTRIES = ("Germany", "Italy", "Portugal", "Norway", "Spain", "France")

PRODUCTS = {
    "furniture": ("oak desk", "office chair", "bookcase", "side table", "coat rack", "filing cabinet"),
    "lighting": ("desk lamp", "floor lamp", "ceiling light", "lantern", "spotlight", "light strip"),
    "kitchen": ("kettle", "frying pan", "chef knife", "coffee grinder", "toaster", "mixing bowl"),
    "textile": ("wool blanket", "cotton towel", "linen curtain", "cushion", "rug", "tablecloth"),
    "workshop": ("hammer", "cordless drill", "hand saw", "wrench set", "tape measure", "ladder"),
    "garden": ("watering can", "garden hose", "plant pot", "rake", "lawn mower", "bird feeder"),
    "electronics": ("keyboard", "monitor", "headset", "webcam", "router", "speaker"),
    "stationery": ("notebook", "fountain pen", "stapler", "paper tray", "whiteboard", "calendar"),
}
"""Category -> its products. The last product of each category in UNORDERED_CATEGORIES is never ordered."""

UNORDERED_CATEGORIES = ("furniture", "workshop", "garden", "electronics", "kitchen")

STATUSES = ("delivered", "pending", "paid", "cancelled", "returned")
CARRIERS = ("Swift Cargo", "BlueLine", "Parcelo", "Nordpost", "Atlas Freight")
MONTHS = _split("January February March April May June July August September October November December")
ORDER_YEARS = (2021, 2022, 2023, 2024)
