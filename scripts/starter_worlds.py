"""Made-up tables for the starter model's pre-training text: none of them is a company.

The sample task asks about a company's database, so everything here stays away from it: observatories, zoos, libraries,
leagues. A world is a set of tables; the first column that another table names with `>` is the key that joins them.
Column kinds: name (invented proper name), word (one of the listed words), int:low:high, real:low:high, year, date.
"""

from __future__ import annotations

WORLDS: dict[str, dict[str, str]] = {
    "observatory": {
        "telescopes": "name:name mirror_cm:int:20:900 built:year kind:word:optical|radio|infrared dome:word:north|south|east",
        "astronomers": "name:name born:year specialty:word:comets|galaxies|pulsars|planets telescope_id>telescopes",
        "comets": "name:name period_years:int:3:900 first_seen:date brightness:real:1:15 astronomer_id>astronomers",
    },
    "zoo": {
        "enclosures": "name:name area_m2:int:40:9000 climate:word:tropical|desert|polar|forest opened:year",
        "animals": "name:name species:word:otter|lynx|ibis|gecko|tapir weight_kg:real:1:900 arrived:date enclosure_id>enclosures",
        "feedings": "animal_id>animals meal:word:fish|fruit|hay|insects fed_on:date grams:int:20:8000",
    },
    "library": {
        "authors": "name:name born:year country:word:Chile|Ghana|Japan|Norway|Poland|Peru",
        "books": "title:name pages:int:60:1200 published:year genre:word:poetry|travel|history|science author_id>authors",
        "loans": "book_id>books reader:name borrowed:date days_out:int:1:60",
    },
    "league": {
        "teams": "name:name town:word:Ashford|Bremen|Dakar|Lyon|Oslo|Quito founded:year points:int:0:99",
        "players": "name:name position:word:goalkeeper|defender|midfielder|forward goals:int:0:60 age:int:16:41 team_id>teams",
        "matches": "home_team:name played_on:date spectators:int:100:80000 team_id>teams",
    },
    "rail": {
        "stations": "name:name platforms:int:1:24 opened:year zone:word:inner|outer|rural",
        "trains": "number:int:100:9999 top_speed:int:80:320 kind:word:express|regional|night station_id>stations",
        "departures": "train_id>trains leaves_on:date delay_minutes:int:0:180 track:int:1:24",
    },
    "museum": {
        "galleries": "name:name floor:int:0:6 theme:word:modern|medieval|asian|maritime",
        "paintings": "title:name painter:name painted:year height_cm:int:10:400 gallery_id>galleries",
        "restorations": "painting_id>paintings started:date hours:int:2:400 method:word:cleaning|lining|retouching",
    },
    "harbour": {
        "piers": "name:name length_m:int:30:900 depth_m:real:3:25 side:word:west|east|north",
        "vessels": "name:name flag:word:Malta|Panama|Greece|Kenya|Cyprus tonnage:int:50:90000 launched:year pier_id>piers",
        "voyages": "vessel_id>vessels port:word:Izmir|Genoa|Tunis|Odesa|Bilbao sailed:date crew:int:2:80",
    },
    "school": {
        "teachers": "name:name subject:word:algebra|biology|drawing|music|latin joined:year",
        "classes": "title:name room:int:1:80 pupils:int:4:34 teacher_id>teachers",
        "exams": "class_id>classes held:date average_mark:real:1:10 absent:int:0:9",
    },
    "mountains": {
        "ranges": "name:name continent:word:Asia|Europe|Africa|Oceania length_km:int:40:7000",
        "peaks": "name:name height_m:int:900:8848 first_climbed:year range_id>ranges",
        "huts": "name:name beds:int:4:120 opened:date peak_id>peaks",
    },
    "music": {
        "bands": "name:name formed:year style:word:jazz|folk|punk|choral home:word:Leeds|Turin|Cork|Ghent",
        "albums": "title:name released:date tracks:int:5:24 minutes:real:20:95 band_id>bands",
        "concerts": "band_id>bands hall:name held:date tickets:int:30:20000",
    },
    "farm": {
        "fields": "name:name hectares:real:0.5:90 soil:word:clay|sand|loam|peat",
        "crops": "name:word:barley|rye|beets|hops|oats sown:date yield_t:real:0.2:80 field_id>fields",
        "tractors": "name:name power_kw:int:20:400 bought:year fuel:word:diesel|electric|gas",
    },
    "weather": {
        "masts": "name:name altitude_m:int:0:3500 region:word:coast|plain|valley|ridge",
        "readings": "mast_id>masts taken:date temperature:real:-30:42 rain_mm:real:0:120 wind:word:calm|fresh|strong|storm",
    },
    "theatre": {
        "plays": "title:name writer:name acts:int:1:5 written:year",
        "actors": "name:name debut:year voice:word:bass|tenor|alto|soprano",
        "roles": "play_id>plays actor_id>actors figure:name lines:int:1:900",
    },
    "space": {
        "rockets": "name:name stages:int:1:4 height_m:real:10:120 maker_country:word:India|France|Brazil|Canada",
        "missions": "name:name launched:date crew:int:0:7 outcome:word:success|failure|partial rocket_id>rockets",
        "craters": "name:name diameter_km:real:0.5:300 body:word:Moon|Mars|Mercury|Ceres found:year",
    },
    "garden": {
        "beds": "name:name size_m2:real:1:60 light:word:sun|shade|half",
        "plants": "name:name family:word:rose|mint|lily|grass height_cm:int:2:400 planted:date bed_id>beds",
    },
    "games": {
        "clubs": "name:name town:word:Bergen|Nantes|Pavia|Zadar founded:year",
        "masters": "name:name rating:int:1200:2850 title:word:grandmaster|international|candidate club_id>clubs",
        "rounds": "master_id>masters played_on:date moves:int:9:190 result:word:win|loss|draw",
    },
}

SYLLABLES = "al an ar bel bor cas dra el en fa gar hel in jor ka lan lo mar mi nor o pel qui ra sil ta tor u va ven wil yr za".split()
MONTHS = "January February March April May June July August September October November December".split()
